//! JSON documents in two steps: into a tree, and from the tree into types.
//!
//! `serde_json` reads the tree, and the types' own `Deserialize` reads them from it. In one step
//! each type would bring a parser of its own, and messages that print the offending value: the
//! module would be a sixth larger, and the values are secrets.

use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    self, Deserialize, DeserializeOwned, Deserializer, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use zeroize::Zeroizing;

/// A JSON value.
#[derive(Debug)]
pub enum Tree {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number from 0.
    Number(u64),
    /// Any other number.
    OtherNumber,
    /// A string, which may be a secret.
    Text(Zeroizing<String>),
    /// An array.
    List(Vec<Self>),
    /// An object, repeated names included.
    Object(Vec<(String, Self)>),
}

/// Why a document is not of its type. It names members, and never shows a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// Reads a document.
///
/// # Errors
///
/// When it is not JSON, or not of this type.
pub fn read<T: DeserializeOwned>(document: &[u8]) -> Result<T, Error> {
    let tree = serde_json::from_slice::<Tree>(document).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Error(format!("not JSON at line {line} column {column}"))
    })?;
    T::deserialize(&tree)
}

impl Tree {
    /// The value of a member, the first of this name; `None` as well where this is no object.
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => {
                members.iter().find_map(|(known, value)| (known == name).then_some(value))
            }
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The number, if it is a whole one from 0.
    pub fn number(&self) -> Option<u64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyValue;

        impl<'de> Visitor<'de> for AnyValue {
            type Value = Tree;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_unit<E>(self) -> Result<Tree, E> {
                Ok(Tree::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
                Ok(Tree::Bool(value))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Tree, E> {
                Ok(Tree::Number(number))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Tree, E> {
                Ok(u64::try_from(number).map_or(Tree::OtherNumber, Tree::Number))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
                Ok(Tree::OtherNumber)
            }

            fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
                Ok(Tree::Text(Zeroizing::new(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
                let mut list = Vec::new();
                while let Some(value) = seq.next_element()? {
                    list.push(value);
                }
                Ok(Tree::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Tree::Object(members))
            }
        }

        deserializer.deserialize_any(AnyValue)
    }
}

impl<'de> Deserializer<'de> for &'de Tree {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Tree::Null => visitor.visit_unit(),
            Tree::Bool(value) => visitor.visit_bool(*value),
            Tree::Number(number) => visitor.visit_u64(*number),
            Tree::OtherNumber => Err(Error::expected(&visitor)),
            Tree::Text(text) => visitor.visit_borrowed_str(text),
            Tree::List(list) => visitor.visit_seq(SeqDeserializer::new(list.iter())),
            Tree::Object(members) => {
                let members = members.iter().map(|(name, value)| (name.as_str(), value));
                visitor.visit_map(MapDeserializer::new(members))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Tree::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for &'de Tree {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl Error {
    fn expected(expected: &dyn Expected) -> Self {
        Self(format!("a value is not {expected}"))
    }
}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::expected(expected)
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::expected(expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;
    #[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        name: String,
        #[serde(default)]
        count: Option<u16>,
        #[serde(default)]
        list: Vec<bool>,
    }

    #[test]
    fn a_document_becomes_its_type() {
        let read = read::<Sample>(br#"{"name": "a\u0062", "count": 7, "list": [true, false]}"#);
        assert_eq!(
            read,
            Ok(Sample { name: "ab".to_owned(), count: Some(7), list: vec![true, false] })
        );
    }

    #[test]
    fn what_is_wrong_is_said_without_the_value() {
        for (document, said) in [
            (r#"{"name": 5}"#, "a value is not a string"),
            (r#"{"name": "planted", "count": -1}"#, "a value is not u16"),
            (r#"{"name": "planted", "count": 70000}"#, "a value is not u16"),
            (r#"{"name": "planted", "count": "planted"}"#, "a value is not u16"),
            (r#"{"name": "planted", "list": {}}"#, "a value is not a sequence"),
            (r#"{"name": "planted", "other": 1}"#, "unknown field `other`, expected one of"),
            (r#"{"name": "planted", "name": "b"}"#, "duplicate field `name`"),
            ("{}", "missing field `name`"),
            (r#"{"name": "planted""#, "not JSON at line 1 column 18"),
            ("\"planted\"", "a value is not struct Sample"),
        ] {
            let error = read::<Sample>(document.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("planted"), "{document}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read::<Sample>(&bytes);
        }
    }
}
