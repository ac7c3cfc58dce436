//! Whether an Envoy is needed here: where only `serve` is used, Envoy is somebody else's, and may be
//! on another machine or in another container.

use crate::config::Config;
use crate::overview::Overview;
use crate::surroundings::Surroundings;

/// What speaks for an Envoy that `up` does not start, in words that follow "and": it is known from
/// the refresher that runs, else from the settings, else from an Envoy that answers.
pub(super) async fn elsewhere(
    config: &Config,
    overview: Option<&Overview>,
) -> Option<&'static str> {
    if let Some(known) = known(config, overview) {
        return known;
    }
    let answers = Surroundings::of(config).admin().answers().await;
    answers.then_some("an Envoy that it did not start answers on its admin interface")
}

/// The same without asking anybody. None: that does not tell.
fn known(config: &Config, overview: Option<&Overview>) -> Option<Option<&'static str>> {
    match overview.map(|overview| overview.starts_envoy) {
        Some(Some(true)) => Some(None),
        Some(Some(false)) => Some(Some("`refresher serve` runs, for an Envoy of yours")),
        Some(None) | None if config.envoy.admin.is_some() => {
            Some(Some("envoy.admin names an Envoy of yours"))
        }
        Some(None) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, resolve};
    use crate::status::tests::overview;

    #[test]
    fn who_runs_tells_more_than_the_settings() {
        let config = |document: &str| {
            let env = |name: &str| (name == "HOME").then(|| "/home/me".to_owned());
            resolve(document, &Overrides::default(), &env).unwrap()
        };
        let (none, named) = (config(""), config("[envoy]\nadmin = \"http://127.0.0.1:9901\""));
        let running = |starts_envoy| Overview { starts_envoy, ..overview() };
        let told = |config, overview: Option<&Overview>| {
            known(config, overview).map(|because| because.unwrap_or("up"))
        };
        for (config, overview, words) in [
            (&none, None, None),
            (&named, None, Some("envoy.admin")),
            (&named, Some(running(Some(true))), Some("up")),
            (&none, Some(running(Some(false))), Some("`refresher serve` runs")),
            (&none, Some(running(None)), None),
            (&named, Some(running(None)), Some("envoy.admin")),
        ] {
            let told = told(config, overview.as_ref());
            let alike = told.zip(words).is_some_and(|(told, words)| told.starts_with(words));
            assert!(alike || told == words, "{told:?} instead of {words:?}");
        }
    }
}
