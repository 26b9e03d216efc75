//! The products of a layer that an adapter can change, and what PEFT calls them.

use crate::config::Config;

/// A product of a layer. The order is that in which a row meets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Query,
    Key,
    Value,
    Output,
    Router,
    /// First product of every expert.
    GateUp,
    /// Second product of every expert.
    Down,
}

impl Target {
    pub(crate) const ALL: [Self; 7] =
        [Self::Query, Self::Key, Self::Value, Self::Output, Self::Router, Self::GateUp, Self::Down];

    /// Its short name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::Output => "o_proj",
            Self::Router => "router",
            Self::GateUp => "gate_up_proj",
            Self::Down => "down_proj",
        }
    }

    /// All short names.
    pub(super) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// The module that holds its weight, below the layer.
    pub(super) fn module(self) -> &'static str {
        match self {
            Self::Query => "self_attn.q_proj",
            Self::Key => "self_attn.k_proj",
            Self::Value => "self_attn.v_proj",
            Self::Output => "self_attn.o_proj",
            Self::Router => "mlp.router",
            Self::GateUp | Self::Down => "mlp.experts",
        }
    }

    /// Whether the module is a linear layer to PEFT, which `target_modules` can name. The others are bare parameters.
    pub(super) fn is_linear(self) -> bool {
        matches!(self, Self::Query | Self::Key | Self::Value | Self::Output)
    }

    /// Its weight in that module, as `target_parameters` names it.
    pub(super) fn parameter(self) -> &'static str {
        match self {
            Self::GateUp | Self::Down => self.name(),
            _ => "weight",
        }
    }

    /// Outputs and inputs.
    pub(crate) fn shape(self, base: &Config) -> [usize; 2] {
        let (hidden, inner) = (base.hidden_size as usize, base.intermediate_size as usize);
        match self {
            Self::Query => [base.query_size(), hidden],
            Self::Key | Self::Value => [base.kv_size(), hidden],
            Self::Output => [hidden, base.query_size()],
            Self::Router => [base.num_experts as usize, hidden],
            Self::GateUp => [2 * inner, hidden],
            Self::Down => [hidden, inner],
        }
    }

    /// How many products share its weight.
    pub(crate) fn num_experts(self, base: &Config) -> usize {
        match self {
            Self::GateUp | Self::Down => base.num_experts as usize,
            _ => 1,
        }
    }
}
