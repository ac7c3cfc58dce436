//! The client as a token endpoint knows it (RFC 6749, section 2.3).

use std::collections::BTreeMap;

use crate::secret::Secret;

/// How a client that has a secret presents it. The names are the registry's (RFC 7591, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum AuthMethod {
    /// In `Authorization: Basic`.
    #[serde(rename = "client_secret_basic")]
    Basic,
    /// In the body.
    #[serde(rename = "client_secret_post")]
    Post,
}

impl AuthMethod {
    /// The method of this name, if it is one that we have.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "client_secret_basic" => Some(Self::Basic),
            "client_secret_post" => Some(Self::Post),
            _ => None,
        }
    }

    /// The method for a provider that publishes these. [`Self::Basic`], which every server has to
    /// take (RFC 6749, section 2.3.1), unless only the other is there.
    pub fn choose(supported: &[String]) -> Self {
        let takes = |method: Self| supported.iter().any(|name| Self::parse(name) == Some(method));
        if takes(Self::Post) && !takes(Self::Basic) { Self::Post } else { Self::Basic }
    }
}

/// What proves that it is this client who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: a public client.
    #[default]
    None,
    /// Its secret, by one of the two methods.
    Secret(Secret, AuthMethod),
}

/// The client of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its id.
    pub id: String,
    /// Its secret, if it has one.
    pub proof: Proof,
    /// Further parameters that the provider wants in token requests.
    pub params: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_goes_into_the_header_unless_only_the_body_is_offered() {
        for (supported, chosen) in [
            (&[][..], AuthMethod::Basic),
            (&["none"], AuthMethod::Basic),
            (&["client_secret_post"], AuthMethod::Post),
            (&["private_key_jwt", "client_secret_post"], AuthMethod::Post),
            (&["client_secret_post", "client_secret_basic"], AuthMethod::Basic),
        ] {
            let names: Vec<String> = supported.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(AuthMethod::choose(&names), chosen, "{supported:?}");
        }
    }
}
