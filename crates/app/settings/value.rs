//! The types a setting can have: how each is read from a file or from text, and how it is shown.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;

/// A value as it was found, before it is known which type it should have.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Raw {
    /// Of the configuration file, which has types of its own.
    Typed(toml::Value),
    /// Of a variable or a flag: always text, to be read as the setting's type.
    Text(String),
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Typed(value) => write!(f, "{value}"),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

/// A type that a setting can have.
pub(crate) trait Value: Sized {
    /// Whether it is a list, which text separates by commas.
    const IS_LIST: bool = false;

    /// The values it takes, in words that complete "it takes …".
    fn kind() -> String;
    /// Reads a value of the configuration file; `None` if it is of another kind.
    fn from_typed(value: &toml::Value) -> Option<Self>;
    /// Reads the text of a variable or a flag.
    fn from_text(text: &str) -> Option<Self>;
    /// Spells the value as the configuration file does.
    fn show(&self) -> String;

    /// What is wrong with a value that is not of its kind, where that says more than what the kind is.
    fn problem(_raw: &Raw) -> Option<String> {
        None
    }

    /// Reads a value from wherever it comes.
    fn from_raw(raw: &Raw) -> Option<Self> {
        match raw {
            Raw::Typed(value) => Self::from_typed(value),
            Raw::Text(text) => Self::from_text(text),
        }
    }
}

/// A count or limit of at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Positive(NonZeroU32);

impl Positive {
    /// The limit `value`; a default of 0 would be a mistake in a declaration.
    pub(crate) const fn of(value: u32) -> Self {
        match NonZeroU32::new(value) {
            Some(value) => Self(value),
            None => panic!("a positive setting is at least 1"),
        }
    }

    /// The number.
    pub(crate) const fn get(self) -> u32 {
        self.0.get()
    }
}

/// Declares a type that is a value or one word that stands for having none.
macro_rules! value_or_word {
    ($(#[$meta:meta])* $name:ident, $(#[$word_meta:meta])* $variant:ident = $word:literal) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(crate) enum $name<T> {
            $(#[$word_meta])*
            $variant,
            /// This and nothing else.
            Set(T),
        }

        impl<T> $name<T> {
            /// What was set, if anything was.
            pub(crate) fn as_ref(&self) -> Option<&T> {
                match self {
                    Self::$variant => None,
                    Self::Set(value) => Some(value),
                }
            }
        }

        impl<T: Value> Value for $name<T> {
            fn kind() -> String {
                format!("{} or {}", $word, T::kind())
            }

            fn from_typed(value: &toml::Value) -> Option<Self> {
                match value {
                    toml::Value::String(text) if text == $word => Some(Self::$variant),
                    other => T::from_typed(other).map(Self::Set),
                }
            }

            fn from_text(text: &str) -> Option<Self> {
                if text == $word {
                    Some(Self::$variant)
                } else {
                    T::from_text(text).map(Self::Set)
                }
            }

            fn show(&self) -> String {
                match self {
                    Self::$variant => concat!("\"", $word, "\"").to_owned(),
                    Self::Set(value) => value.show(),
                }
            }
        }
    };
}

value_or_word! {
    /// A value that the program can choose by itself.
    Auto,
    /// The program chooses.
    Auto = "auto"
}

value_or_word! {
    /// A value that need not be there.
    OrNone,
    /// There is none.
    None = "none"
}

/// Declares an enum whose variants have fixed spellings.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl Value for $name {
            fn kind() -> String {
                [$($text),+].join(", ")
            }

            fn from_typed(value: &toml::Value) -> Option<Self> {
                Self::from_text(value.as_str()?)
            }

            fn from_text(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$variant),)+
                    _ => None,
                }
            }

            fn show(&self) -> String {
                match self {
                    $(Self::$variant => concat!("\"", $text, "\"").to_owned(),)+
                }
            }
        }
    };
}

choice! {
    /// What the model runs on.
    Device {
        /// The best this build has.
        Auto = "auto",
        /// The processor.
        Cpu = "cpu",
        /// An NVIDIA GPU.
        Cuda = "cuda",
        /// The GPU's kernels on the processor, slowly, with every mistake found: for developers.
        Host = "host",
    }
}

choice! {
    /// How finely the processor rounds activations.
    Activations {
        /// No coarser than float32.
        Float32 = "float32",
        /// To 16 bits.
        Int16 = "int16",
        /// To 8 bits.
        Int8 = "int8",
    }
}

choice! {
    /// How log lines look.
    LogFormat {
        /// For people.
        Text = "text",
        /// For log collectors: one JSON object a line.
        Json = "json",
    }
}

/// Declares how whole numbers with bounds are read.
macro_rules! whole_number {
    ($type:ty, $kind:literal, |$value:ident| $make:expr, |$this:ident| $get:expr) => {
        impl Value for $type {
            fn kind() -> String {
                $kind.to_owned()
            }

            fn from_typed(value: &toml::Value) -> Option<Self> {
                let $value = value.as_integer()?.try_into().ok()?;
                $make
            }

            fn from_text(text: &str) -> Option<Self> {
                let $value = text.trim().parse().ok()?;
                $make
            }

            fn show(&self) -> String {
                let $this = self;
                $get.to_string()
            }
        }
    };
}

whole_number!(u16, "a whole number from 0 to 65535", |value| Some(value), |this| this);
whole_number!(u32, "a whole number", |value| Some(value), |this| this);
whole_number!(
    Positive,
    "a whole number of at least 1",
    |value| NonZeroU32::new(value).map(Positive),
    |this| this.get()
);

impl Value for bool {
    fn kind() -> String {
        "true or false".to_owned()
    }

    fn from_typed(value: &toml::Value) -> Option<Self> {
        value.as_bool()
    }

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    fn kind() -> String {
        "a text".to_owned()
    }

    fn from_typed(value: &toml::Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn show(&self) -> String {
        toml::Value::String(self.clone()).to_string()
    }
}

impl Value for PathBuf {
    fn kind() -> String {
        "a path".to_owned()
    }

    fn from_typed(value: &toml::Value) -> Option<Self> {
        Self::from_text(value.as_str()?)
    }

    fn from_text(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self::from(text))
    }

    fn show(&self) -> String {
        self.to_string_lossy().into_owned().show()
    }
}

impl Value for Vec<String> {
    const IS_LIST: bool = true;

    fn kind() -> String {
        "a list of texts (in a variable: separated by commas)".to_owned()
    }

    fn from_typed(value: &toml::Value) -> Option<Self> {
        value.as_array()?.iter().map(String::from_typed).collect()
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(text.split(',').map(|item| item.trim().to_owned()).filter(|i| !i.is_empty()).collect())
    }

    fn show(&self) -> String {
        format!("[{}]", self.iter().map(Value::show).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value read from text and from the file's spelling must be the same and show as that spelling.
    fn check<T: Value + PartialEq + fmt::Debug>(text: &str, spelling: &str) {
        let table: toml::Table = format!("x = {spelling}").parse().unwrap();
        let typed = T::from_typed(&table["x"]);
        assert!(typed.is_some(), "{spelling} is not {}", T::kind());
        assert_eq!(T::from_text(text), typed);
        assert_eq!(typed.unwrap().show(), spelling);
    }

    #[test]
    fn values_read_the_same_from_text_and_file() {
        check::<u16>("8000", "8000");
        check::<bool>("true", "true");
        check::<String>("a \"quoted\" word", "'a \"quoted\" word'");
        check::<PathBuf>("/models/gpt-oss", "\"/models/gpt-oss\"");
        check::<Vec<String>>("a, b", "[\"a\", \"b\"]");
        check::<Device>("cuda", "\"cuda\"");
        check::<Activations>("int16", "\"int16\"");
        check::<Auto<Positive>>("auto", "\"auto\"");
        check::<Auto<Positive>>("4096", "4096");
        check::<OrNone<PathBuf>>("none", "\"none\"");
    }

    #[test]
    fn values_of_another_kind_are_refused() {
        assert_eq!(u16::from_text("65536"), None);
        assert_eq!(u16::from_typed(&toml::Value::String("8000".into())), None);
        assert_eq!(u32::from_typed(&toml::Value::Integer(-1)), None);
        assert_eq!(Positive::from_text("0"), None);
        assert_eq!(Auto::<Positive>::from_text("automatic"), None);
        assert_eq!(Device::from_text("gpu"), None);
        assert_eq!(PathBuf::from_text(""), None);
        assert_eq!(bool::from_text("yes"), None);
        assert_eq!(Vec::<String>::from_typed(&toml::Value::Array(vec![1.into()])), None);
    }
}
