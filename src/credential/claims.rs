//! What is known of a client, and what a credential wants it to be.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{jwt, percent};
use crate::config::{ClaimRule, Wanted};

/// What is known of a client, by name, as texts. A list has several; what is neither a text, a whole number, a
/// truth value nor a list of those has none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Claims(BTreeMap<String, Vec<String>>);

impl Claims {
    /// One claim.
    pub(super) fn one(name: &str, values: impl IntoIterator<Item = String>) -> Self {
        Self(BTreeMap::from([(name.to_owned(), values.into_iter().collect())]))
    }

    /// Those of a signed token.
    pub(crate) fn of_token(claims: jwt::Claims) -> Self {
        let values = |value| match value {
            Value::Array(values) => values.into_iter().filter_map(text).collect(),
            value => text(value).into_iter().collect(),
        };
        Self(claims.into_iter().map(|(name, value)| (name, values(value))).collect())
    }

    /// A claim of one value.
    pub fn value(&self, name: &str) -> Option<&str> {
        match self.0.get(name)?.as_slice() {
            [value] => Some(value),
            _ => None,
        }
    }

    /// Whether a claim is, or has among it, what the rule wants.
    pub(super) fn fit(&self, rule: &ClaimRule, captures: &[(String, String)]) -> bool {
        let Some(values) = self.0.get(&rule.claim) else { return false };
        match &rule.wanted {
            Wanted::Text(text) => values.contains(text),
            Wanted::Capture(name) => {
                let found = captures.iter().find(|(known, _)| known == name);
                // The path is compared as what it means: `%20` is a blank.
                let Some(meant) = found.and_then(|(_, value)| percent::decoded(value)) else {
                    return false;
                };
                !meant.is_empty() && values.iter().any(|value| *value.as_bytes() == *meant)
            }
        }
    }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_texts_whole_numbers_and_lists_of_them() {
        let json = r#"{"sub":"alice","room":42,"beta":true,"rooms":["lobby",7,{}],"pi":3.5,"o":{"a":"b"},
                       "one":["x"],"none":[],"null":null,"empty":""}"#;
        let claims = Claims::of_token(serde_json::from_str(json).unwrap());
        for (name, value) in [
            ("sub", Some("alice")),
            ("room", Some("42")),
            ("beta", Some("true")),
            ("one", Some("x")),
            ("empty", Some("")),
            ("rooms", None),
            ("pi", None),
            ("o", None),
            ("none", None),
            ("null", None),
            ("nobody", None),
        ] {
            assert_eq!(claims.value(name), value, "{name}");
        }
        let captures = [("room".to_owned(), "lobby".to_owned()), ("n".into(), "7".into())];
        let (text, capture) =
            (|t: &str| Wanted::Text(t.to_owned()), |c: &str| Wanted::Capture(c.to_owned()));
        for (claim, wanted, fits) in [
            ("rooms", capture("room"), true),
            ("rooms", capture("n"), true),
            ("rooms", text("lobby"), true),
            ("rooms", text("other"), false),
            ("room", capture("n"), false),
            ("room", text("42"), true),
            ("beta", text("true"), true),
            ("pi", text("3.5"), false),
            ("nobody", text("alice"), false),
            ("sub", capture("nowhere"), false),
        ] {
            let rule = ClaimRule { claim: claim.to_owned(), wanted };
            assert_eq!(claims.fit(&rule, &captures), fits, "{rule:?}");
        }
    }
}
