//! The models that are compared: which the server has, what they cost, and which of them gave an answer.

use anyhow::{Context, Result, bail};
use harmonium_hosted::Price;
use harmonium_openai::models::Pricing;
use harmonium_openai::{Model, ModelList};

/// Most models of one comparison: more columns nobody can read side by side.
const MAX_MODELS: usize = 16;

/// All models of a server, and which of them are asked.
#[derive(Debug)]
pub(super) struct Models {
    all: Vec<Known>,
    /// Indexes of `all`, in the order they were named.
    chosen: Vec<usize>,
}

/// What a server says about one of its models.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Known {
    /// What requests call it.
    pub(super) name: String,
    /// `local` or `hosted`, from a server that says so.
    pub(super) backend: Option<String>,
    /// Its prices as the server lists them; absent where nobody is paid.
    pub(super) pricing: Option<Pricing>,
    price: Option<Price>,
}

/// What an answer says about where it comes from.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Origin {
    /// `x-harmonium-backend`.
    pub(super) backend: Option<String>,
    /// `x-harmonium-model`: the answering model by its name in the list.
    pub(super) listed: Option<String>,
    /// The `model` of the first chunk: upstream's own name, which may be that of a snapshot.
    pub(super) model: Option<String>,
}

/// What an answer's tokens cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Charge {
    /// Nothing: nobody is paid.
    Free,
    /// By this price.
    At(Price),
    /// Somebody answered whose price the server does not say.
    Unknown,
}

/// Refuses names that cannot be a choice of models, before there is a server to ask.
pub(super) fn check_names(names: &[String]) -> Result<()> {
    if names.len() > MAX_MODELS {
        bail!("--models: {} are named, {MAX_MODELS} is the most", names.len());
    }
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() {
            bail!("--models: name {} is empty", index + 1);
        }
        if names[..index].contains(name) {
            bail!("--models: {name:?} is named twice");
        }
    }
    Ok(())
}

impl Models {
    /// Finds the models called `names`; a name that is none of the server's is an error that lists those.
    pub(super) fn choose(list: ModelList, names: &[String]) -> Result<Self> {
        let all = list.data.into_iter().map(Known::new).collect::<Result<Vec<_>>>()?;
        let find = |name: &String| {
            all.iter().position(|model| model.name == *name).with_context(|| {
                let known: Vec<&str> = all.iter().map(|model| model.name.as_str()).collect();
                format!("--models: there is no {name:?}; the server has {}", known.join(", "))
            })
        };
        let chosen = names.iter().map(find).collect::<Result<_>>()?;
        Ok(Self { all, chosen })
    }

    /// The models to ask, in order.
    pub(super) fn chosen(&self) -> impl Iterator<Item = &Known> {
        self.chosen.iter().map(|&index| &self.all[index])
    }

    /// What an answer to a request that named `asked` is charged.
    pub(super) fn charge(&self, asked: &Known, origin: &Origin) -> Charge {
        let answering = if asked.is_elsewhere(origin) {
            self.all.iter().find(|model| Some(&model.name) == origin.name())
        } else {
            Some(asked)
        };
        match answering {
            None => Charge::Unknown,
            Some(model) => model.price.map_or(Charge::Free, Charge::At),
        }
    }
}

impl Known {
    fn new(model: Model) -> Result<Self> {
        let Model { id: name, backend, pricing, .. } = model;
        let price = pricing.map(|Pricing { input, cached_input, output }| {
            Price::from_usd_per_million(input, cached_input, output)
        });
        let price = price.transpose().with_context(|| format!("the server's price of {name:?}"))?;
        Ok(Self { name, backend, pricing, price })
    }

    /// Whether another model than this one, which was asked, gave the answer.
    pub(super) fn is_elsewhere(&self, origin: &Origin) -> bool {
        let Some(name) = origin.name().filter(|name| **name != self.name) else { return false };
        let is_local = |backend: &Option<String>| backend.as_deref() == Some("local");
        if origin.listed.is_some() {
            // All names of the local model are one model.
            return !(is_local(&self.backend) && is_local(&origin.backend));
        }
        // Other servers answer to an alias with the name of its snapshot: gpt-4.1 with gpt-4.1-2025-04-14.
        let snapshot =
            name.strip_prefix(self.name.as_str()).and_then(|rest| rest.strip_prefix('-'));
        !snapshot.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    }
}

impl Origin {
    fn name(&self) -> Option<&String> {
        self.listed.as_ref().or(self.model.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn models(names: &[&str]) -> Result<Models> {
        let model =
            |id: &str, backend: &str| json!({"id": id, "object": "model", "backend": backend});
        let mut hosted = model("gpt-4.1-mini", "hosted");
        hosted["pricing"] = json!({"input": 0.4, "cached_input": 0.1, "output": 1.6});
        let data = [model("oss", "local"), model("openai/oss", "local"), hosted];
        let list = serde_json::from_value(json!({"object": "list", "data": data})).unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        Models::choose(list, &names)
    }

    fn origin(backend: Option<&str>, listed: Option<&str>, model: &str) -> Origin {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Origin { backend: owned(backend), listed: owned(listed), model: owned(Some(model)) }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let message = models(&["oss", "gpt-9"]).unwrap_err().to_string();
        let expected = "there is no \"gpt-9\"; the server has oss, openai/oss, gpt-4.1-mini";
        assert!(message.ends_with(expected), "{message}");
        let names = |names: &[&str]| {
            check_names(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
        };
        assert!(names(&["a", "b"]).is_ok());
        assert!(names(&["a", ""]).unwrap_err().to_string().contains("name 2 is empty"));
        assert!(names(&["a", "b", "a"]).unwrap_err().to_string().contains("\"a\" is named twice"));
        assert!(names(&["a"; MAX_MODELS + 1]).unwrap_err().to_string().contains("17 are named"));
    }

    #[test]
    fn whoever_answers_sets_the_price() {
        let models = models(&["openai/oss", "gpt-4.1-mini"]).unwrap();
        let [local, hosted] = models.chosen().collect::<Vec<_>>()[..] else { panic!() };
        let price = Price::from_usd_per_million(0.4, 0.1, 1.6).unwrap();
        for (asked, origin, is_elsewhere, charge) in [
            (local, origin(Some("local"), Some("oss"), "oss"), false, Charge::Free),
            (
                local,
                origin(Some("hosted"), Some("gpt-4.1-mini"), "gpt-4.1-mini-2025-04-14"),
                true,
                Charge::At(price),
            ),
            (local, origin(Some("hosted"), Some("gone"), "gone"), true, Charge::Unknown),
            (
                hosted,
                origin(Some("hosted"), Some("gpt-4.1-mini"), "gpt-4.1-mini-2025-04-14"),
                false,
                Charge::At(price),
            ),
            // Servers that send no headers of ours.
            (hosted, origin(None, None, "gpt-4.1-mini-2025-04-14"), false, Charge::At(price)),
            (hosted, origin(None, None, "gpt-4.1-mini-turbo"), true, Charge::Unknown),
            (hosted, origin(None, None, "oss"), true, Charge::Free),
            (hosted, Origin::default(), false, Charge::At(price)),
        ] {
            assert_eq!(asked.is_elsewhere(&origin), is_elsewhere, "{origin:?}");
            assert_eq!(models.charge(asked, &origin), charge, "{origin:?}");
        }
    }
}
