//! What stands in paths and queries: percent-encoding and parameters.

use std::str::FromStr;

/// A segment of a path without its percent-encoding (RFC 3986 section 2.1): names may have slashes.
pub(super) fn decoded(segment: &str) -> Option<String> {
    let mut pieces = segment.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        // The parser alone would take a sign.
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        bytes.push(is_hex.then(|| u8::from_str_radix(digits, 16).ok())??);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// The parameters of a query, to be taken one by one. What is left at the end is a mistake: a filter whose
/// name is misspelt would otherwise select everything.
#[derive(Debug)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads `name=value&...`, where a `+` is a blank.
    ///
    /// # Errors
    /// What is wrong, for whoever asked.
    pub(super) fn read(query: &str) -> Result<Self, String> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(&value.replace('+', " "));
            let value = value.ok_or_else(|| format!("{name}: bad percent-encoding"))?;
            Ok((name.to_owned(), value))
        });
        Ok(Self(pairs.collect::<Result<_, String>>()?))
    }

    /// Takes one parameter, if it is there.
    ///
    /// # Errors
    /// That it is there twice.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<String>, String> {
        let Some(place) = self.0.iter().position(|(found, _)| found == name) else {
            return Ok(None);
        };
        let (_, value) = self.0.swap_remove(place);
        if self.0.iter().any(|(found, _)| found == name) {
            return Err(format!("{name} is there twice"));
        }
        Ok(Some(value))
    }

    /// The same, as what it stands for.
    ///
    /// # Errors
    /// That it is there twice, or is no `what`.
    pub(super) fn take_as<T: FromStr>(
        &mut self,
        name: &str,
        what: &str,
    ) -> Result<Option<T>, String> {
        let Some(text) = self.take(name)? else { return Ok(None) };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(format!("{name}: {text:?} is no {what}")),
        }
    }

    /// Nothing else may be there.
    ///
    /// # Errors
    /// What else is there.
    pub(super) fn end(self) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(format!("{name:?} is no parameter of this")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_taken_by_name_and_none_is_left() {
        let mut query = Parameters::read("route=a%2Fb&limit=7&text=over+and%20out&&flag").unwrap();
        assert_eq!(query.take("route"), Ok(Some("a/b".into())));
        assert_eq!(query.take_as("limit", "number"), Ok(Some(7)));
        assert_eq!(query.take("text"), Ok(Some("over and out".into())));
        assert_eq!(query.take("absent"), Ok(None));
        assert_eq!(query.end(), Err("\"flag\" is no parameter of this".into()));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(Parameters::read("a=%2").unwrap_err(), "a: bad percent-encoding");
        assert_eq!(Parameters::read("a=%ff").unwrap_err(), "a: bad percent-encoding");
        let mut query = Parameters::read("a=1&b=x&a=2").unwrap();
        assert_eq!(query.take("a"), Err("a is there twice".into()));
        let not_a_number = query.take_as::<u32>("b", "number");
        assert_eq!(not_a_number, Err("b: \"x\" is no number".into()));
    }
}
