//! The adapters of `model.adapters`: each a name and a directory, in one spelling for file, variable and flag.

use std::path::PathBuf;

use super::value::{Raw, Value};

/// Longest name of an adapter.
const MAX_NAME_LEN: usize = 64;

/// Adapters with different names, in the order given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Adapters(pub(crate) Vec<NamedAdapter>);

/// One `NAME=DIR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedAdapter {
    /// What follows the model's name and a colon in requests.
    pub(crate) name: String,
    /// Where PEFT has saved it.
    pub(crate) dir: PathBuf,
}

impl NamedAdapter {
    /// Reads `NAME=DIR`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let Some((name, dir)) = text.split_once('=') else {
            return Err(format!("{text:?} is not NAME=DIR"));
        };
        // A colon would divide the model's name from the adapter's in two ways.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !(1..=MAX_NAME_LEN).contains(&name.len()) || !name.chars().all(is_plain) {
            return Err(format!(
                "{name:?} in {text:?} is no name: 1 to {MAX_NAME_LEN} letters, digits, '.', '_' or '-'"
            ));
        }
        if dir.is_empty() {
            return Err(format!("{text:?} names no directory"));
        }
        Ok(Self { name: name.to_owned(), dir: PathBuf::from(dir) })
    }
}

impl Adapters {
    fn read(raw: &Raw) -> Result<Self, String> {
        let texts = match raw {
            Raw::Typed(value) => {
                Vec::<String>::from_typed(value).ok_or("it is not a list of texts")?
            }
            Raw::Text(text) => Vec::<String>::from_text(text).unwrap_or_default(),
        };
        let adapters: Vec<NamedAdapter> =
            texts.iter().map(|text| NamedAdapter::parse(text)).collect::<Result<_, _>>()?;
        for (index, NamedAdapter { name, .. }) in adapters.iter().enumerate() {
            if adapters[..index].iter().any(|other| other.name == *name) {
                return Err(format!("two adapters are called {name:?}"));
            }
        }
        Ok(Self(adapters))
    }
}

impl Value for Adapters {
    const IS_LIST: bool = true;

    fn kind() -> String {
        "a list of NAME=DIR with different names (in a variable: separated by commas)".to_owned()
    }

    fn from_typed(value: &toml::Value) -> Option<Self> {
        Self::read(&Raw::Typed(value.clone())).ok()
    }

    fn from_text(text: &str) -> Option<Self> {
        Self::read(&Raw::Text(text.to_owned())).ok()
    }

    fn show(&self) -> String {
        let texts =
            self.0.iter().map(|NamedAdapter { name, dir }| format!("{name}={}", dir.display()));
        texts.collect::<Vec<_>>().show()
    }

    fn problem(raw: &Raw) -> Option<String> {
        Self::read(raw).err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_reads_back() {
        let text = "legal=/models/a, poet=b=c";
        let adapters = Adapters::from_text(text).unwrap();
        assert_eq!(adapters.show(), "[\"legal=/models/a\", \"poet=b=c\"]");
        assert_eq!(adapters.0[1].dir, PathBuf::from("b=c"));
        let table: toml::Table = format!("x = {}", adapters.show()).parse().unwrap();
        assert_eq!(Adapters::from_typed(&table["x"]), Some(adapters));
        assert_eq!(Adapters::from_text(""), Some(Adapters::default()));
    }

    #[test]
    fn wrong_names_are_shown() {
        for (text, shown) in [
            ("legal", "\"legal\" is not NAME=DIR"),
            ("=/x", "\"\" in \"=/x\" is no name"),
            ("a:b=/x", "\"a:b\" in \"a:b=/x\" is no name"),
            ("a b=/x", "is no name"),
            ("a=", "\"a=\" names no directory"),
            ("a=/x,b=/y,a=/z", "two adapters are called \"a\""),
        ] {
            let problem = Adapters::problem(&Raw::Text(text.to_owned())).unwrap();
            assert!(problem.contains(shown), "{problem}");
        }
        let typed = Raw::Typed(toml::Value::String("a=/x".to_owned()));
        assert_eq!(Adapters::problem(&typed).as_deref(), Some("it is not a list of texts"));
    }
}
