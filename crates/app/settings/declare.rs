//! The macro behind the declarations in [`super`], and what it says about each of them.
//!
//! One declaration expands to a field of a typed struct and to a [`Setting`], whose functions read and show
//! that field. So code uses plain fields, and everything that walks over all settings uses the table.

use super::Settings;
use super::value::Raw;

/// What is known of one setting without knowing its type.
pub(crate) struct Setting {
    /// Its full name, `section.key`.
    pub(crate) name: &'static str,
    /// Its table in the configuration file.
    pub(crate) section: &'static str,
    /// Its key in that table.
    pub(crate) key: &'static str,
    /// Lines of its documentation, as declared.
    pub(crate) doc: &'static [&'static str],
    /// The values it takes, in words.
    pub(crate) kind: fn() -> String,
    /// Whether its value is a list, so that its flag may be given more than once.
    pub(crate) is_list: bool,
    /// Its flag without the dashes, and what the flag's help calls the value.
    pub(crate) flag: Option<(&'static str, &'static str)>,
    /// The name of its variable where that is not the derived one.
    pub(crate) env_override: Option<&'static str>,
    /// Whether it would take this text as a value.
    pub(crate) accepts: fn(&str) -> bool,
    /// Gives it a value; false means that the value is not of its kind.
    pub(crate) assign: fn(&mut Settings, &Raw) -> bool,
    /// What is wrong with a value that it does not take, if more can be said than what it takes.
    pub(crate) problem: fn(&Raw) -> Option<String>,
    /// Its value as the configuration file would spell it.
    pub(crate) show: fn(&Settings) -> String,
}

impl Setting {
    /// The environment variable that sets it.
    pub(crate) fn env_name(&self) -> String {
        match self.env_override {
            Some(name) => name.to_owned(),
            None => format!(
                "HARMONIUM_{}_{}",
                self.section.to_ascii_uppercase(),
                self.key.to_ascii_uppercase()
            ),
        }
    }

    /// The documentation as one paragraph.
    pub(crate) fn help(&self) -> String {
        self.doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
    }
}

/// One table of the configuration file.
pub(crate) struct Section {
    /// Its name.
    pub(crate) name: &'static str,
    /// What its settings are about.
    pub(crate) doc: &'static str,
}

macro_rules! settings {
    ($(
        #[doc = $section_doc:literal]
        $section:ident: $group:ident {
            $(
                $(#[doc = $doc:literal])+
                $key:ident: $kind:ty = $default:expr
                    $(, flag $flag:literal $placeholder:literal)?
                    $(, env $env:literal)?;
            )+
        }
    )+) => {
        /// The settings in force.
        #[derive(Debug, Clone, PartialEq)]
        pub(crate) struct Settings {
            $(#[doc = $section_doc] pub(crate) $section: $group,)+
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($section: $group::default(),)+ }
            }
        }

        $(
            #[doc = $section_doc]
            #[derive(Debug, Clone, PartialEq)]
            pub(crate) struct $group {
                $($(#[doc = $doc])+ pub(crate) $key: $kind,)+
            }

            impl Default for $group {
                fn default() -> Self {
                    Self { $($key: $default,)+ }
                }
            }
        )+

        /// The tables of the configuration file, in order.
        pub(crate) static SECTIONS: &[Section] = &[
            $(Section { name: stringify!($section), doc: $section_doc },)+
        ];

        /// All settings, in order.
        pub(crate) static SETTINGS: &[Setting] = &[$($(
            Setting {
                name: concat!(stringify!($section), ".", stringify!($key)),
                section: stringify!($section),
                key: stringify!($key),
                doc: &[$($doc),+],
                kind: <$kind as $crate::settings::value::Value>::kind,
                is_list: <$kind as $crate::settings::value::Value>::IS_LIST,
                flag: $crate::settings::declare::optional!($(($flag, $placeholder))?),
                env_override: $crate::settings::declare::optional!($($env)?),
                accepts: |text| {
                    <$kind as $crate::settings::value::Value>::from_text(text).is_some()
                },
                assign: |settings, raw| {
                    match <$kind as $crate::settings::value::Value>::from_raw(raw) {
                        Some(value) => {
                            settings.$section.$key = value;
                            true
                        }
                        None => false,
                    }
                },
                problem: <$kind as $crate::settings::value::Value>::problem,
                show: |settings| {
                    $crate::settings::value::Value::show(&settings.$section.$key)
                },
            },
        )+)+];
    };
}

macro_rules! optional {
    () => {
        None
    };
    ($value:expr) => {
        Some($value)
    };
}

pub(super) use {optional, settings};
