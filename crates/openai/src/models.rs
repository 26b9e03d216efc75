//! `GET /v1/models`: which models a server has.

use serde::{Deserialize, Serialize};

/// A model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// The id that requests use.
    pub id: String,
    /// `model`.
    pub object: String,
    /// Seconds since 1970.
    #[serde(default)]
    pub created: i64,
    /// Who offers it.
    #[serde(default)]
    pub owned_by: String,
    /// Longest sequence in tokens. Not in OpenAI's protocol, but widely read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<u32>,
}

/// All models of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelList {
    /// `list`.
    pub object: String,
    /// The models.
    pub data: Vec<Model>,
}
