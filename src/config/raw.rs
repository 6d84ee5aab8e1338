//! What was typed: the file's shape, with nothing checked but the keys.
