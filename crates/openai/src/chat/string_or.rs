//! Reads the protocol's many "a string or a structure" fields without buffering.
//!
//! An untagged enum would forget where inside the structure a value is wrong; going through the deserializer
//! once keeps the path, so an error can name `messages[2].content[0].type`.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A type read from a string or from something with parts.
pub(super) trait StringOr<'de>: Sized {
    /// What the field takes, for error messages.
    const EXPECTED: &'static str;
    /// The type of the array form; [`Never`] if there is none.
    type Seq: Deserialize<'de>;
    /// The type of the object form; [`Never`] if there is none.
    type Map: Deserialize<'de>;

    fn from_string(text: String) -> Self;
    fn from_seq(seq: Self::Seq) -> Self;
    fn from_map(map: Self::Map) -> Self;
}

/// The form that a field does not have. Reading one always fails.
pub(super) enum Never {}

impl<'de> Deserialize<'de> for Never {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom("not accepted here"))
    }
}

/// Reads a `T` from whichever form the input has.
pub(super) fn deserialize<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: StringOr<'de>,
{
    deserializer.deserialize_any(FormVisitor(PhantomData))
}

struct FormVisitor<T>(PhantomData<T>);

impl<'de, T: StringOr<'de>> Visitor<'de> for FormVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        Ok(T::from_string(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<T, E> {
        Ok(T::from_string(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<T, A::Error> {
        T::Seq::deserialize(SeqAccessDeserializer::new(seq)).map(T::from_seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::Map::deserialize(MapAccessDeserializer::new(map)).map(T::from_map)
    }
}
