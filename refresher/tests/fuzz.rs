//! Every parser of what comes from outside, over random bytes and over samples with random changes:
//! nothing panics, and no error shows a secret. `PROPTEST_CASES` makes it run longer.

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;
    use proptest::sample::Index;
    use refresher::config::{Config, Overrides, resolve};
    use refresher::import::format::{self, Format};
    use refresher::login::callback::{Expected, judge, judge_pasted};
    use refresher::oauth::answer::{self, Response};
    use refresher::oauth::device;
    use refresher::provider::metadata;
    use refresher::secret::Secret;
    use refresher::store::Store;

    /// What marks the secrets of the samples.
    const MARK: &str = "-planted-";

    const FILES: [&[u8]; 9] = [
        include_bytes!("samples/hermes.json"),
        include_bytes!("samples/hermes-pool.json"),
        include_bytes!("samples/hermes-logged-out.json"),
        include_bytes!("samples/grok-cli.json"),
        include_bytes!("samples/python-proxy.json"),
        include_bytes!("samples/python-proxy-export.json"),
        include_bytes!("samples/rust-proxy.json"),
        include_bytes!("samples/torchbearer.json"),
        include_bytes!("samples/grant.json"),
    ];

    const ANSWERS: [&[u8]; 5] = [
        br#"{"access_token":"at-planted-1","refresh_token":"rt-planted-1","token_type":"Bearer","expires_in":21600,"scope":"openid"}"#,
        br#"{"error":"invalid_grant","error_description":"rt-planted-2 was spent"}"#,
        br#"{"error":{"code":"invalid_grant","message":"rt-planted-3"}}"#,
        br#"{"device_code":"dc-planted-4","user_code":"ABCD-EFGH","verification_uri":"https://id.example/device","verification_uri_complete":"https://id.example/device?user_code=ABCD-EFGH","expires_in":600,"interval":5}"#,
        br#"{"issuer":"https://id.example","authorization_endpoint":"https://id.example/authorize","token_endpoint":"https://id.example/token","device_authorization_endpoint":"https://id.example/device","code_challenge_methods_supported":["S256"]}"#,
    ];

    const QUERIES: [&[u8]; 3] = [
        b"code=code-planted-1&state=state-planted-1&iss=https%3A%2F%2Fid.example",
        b"error=access_denied&error_description=no&state=state-planted-1",
        b"http://127.0.0.1:56121/callback?code=code-planted-2&state=state-planted-1#x",
    ];

    /// One change to a sample.
    #[derive(Clone, Debug)]
    enum Edit {
        Replace(Index, u8),
        Cut(Index, Index),
        Insert(Index, Vec<u8>),
        Double(Index, Index),
    }

    fn edit() -> impl Strategy<Value = Edit> {
        let token = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            "\"",
            ":",
            ",",
            "null",
            "0",
            "-1",
            "1e400",
            "\\u0000",
            "\\ud800",
            "\"refresh_token\":",
            "\"tokens\":{",
            "\u{feff}",
            "18446744073709551616",
            "::",
        ]);
        let bytes = prop_oneof![
            token.prop_map(|text| text.as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 1..8),
        ];
        prop_oneof![
            (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Replace(at, byte)),
            (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Edit::Cut(from, to)),
            (any::<Index>(), bytes).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
            (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Edit::Double(from, to)),
        ]
    }

    fn edited(mut bytes: Vec<u8>, edits: Vec<Edit>) -> Vec<u8> {
        for edit in edits {
            let length = bytes.len() + 1;
            let span = |a: Index, b: Index| {
                let (a, b) = (a.index(length), b.index(length));
                // Short spans: long ones leave nothing to read.
                a.min(b)..a.max(b).min(a.min(b) + 40)
            };
            match edit {
                Edit::Replace(at, byte) => {
                    if let Some(place) = bytes.get_mut(at.index(length)) {
                        *place = byte;
                    }
                }
                Edit::Cut(from, to) => drop(bytes.drain(span(from, to))),
                Edit::Insert(at, new) => {
                    let at = at.index(length);
                    bytes.splice(at..at, new);
                }
                Edit::Double(from, to) => {
                    let copy = bytes[span(from, to)].to_vec();
                    bytes.extend(copy);
                }
            }
        }
        bytes
    }

    fn changed(samples: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
        let sample = any::<Index>().prop_map(|which| samples[which.index(samples.len())].to_vec());
        prop_oneof![
            9 => (sample, prop::collection::vec(edit(), 0..6)).prop_map(|(s, e)| edited(s, e)),
            1 => prop::collection::vec(any::<u8>(), 0..300),
        ]
    }

    /// The provider's error code is shown as it came, so what the edits move into it is no leak.
    fn hides(shown: &str) -> Result<(), TestCaseError> {
        let mut text = shown.to_owned();
        for part in shown.split("ErrorCode(\"").skip(1) {
            let code = part.split_once('"').map_or("", |(code, _)| code);
            text = text.replace(code, "");
        }
        prop_assert!(!text.contains(MARK), "{}", shown);
        Ok(())
    }

    fn config(directory: &std::path::Path) -> Config {
        let state_dir = Some(directory.join("state"));
        let flags = Overrides { state_dir, ..Overrides::default() };
        resolve("", &flags, &|_| None).unwrap()
    }

    proptest! {
        #[test]
        fn imported_files(bytes in changed(&FILES)) {
            for stated in Format::ALL.into_iter().map(Some).chain([None]) {
                match format::read(&bytes, stated) {
                    Ok(candidates) => {
                        prop_assert!(!candidates.is_empty());
                        for candidate in candidates {
                            prop_assert!(!candidate.refresh_token.expose().is_empty());
                            prop_assert!(stated.is_none_or(|stated| stated == candidate.format));
                        }
                    }
                    Err(reason) => hides(&format!("{reason} {reason:?}"))?,
                }
            }
        }

        #[test]
        fn answers_of_a_provider(bytes in changed(&ANSWERS), status in prop::sample::select(vec![200_u16, 400, 401, 403, 500])) {
            let response = Response { status, retry_after: None, body: bytes.into() };
            hides(&format!("{:?}", answer::read(&response, 1_779_000_000)))?;
            match device::read(&response) {
                Ok(authorization) => {
                    prop_assert!(authorization.life_s > 0);
                    prop_assert!(!authorization.user_code.chars().any(char::is_control));
                    hides(&format!("{:?}", authorization.device_code))?;
                }
                Err(error) => hides(&format!("{error} {error:?}"))?,
            }
            let issuer = "https://id.example".parse().unwrap();
            if let Err(error) = metadata::read(&response, &issuer) {
                hides(&format!("{error} {error:?}"))?;
            }
        }

        #[test]
        fn callbacks(bytes in changed(&QUERIES)) {
            let expected = Expected {
                names_issuer: false,
                path: "/callback".into(),
                state: Secret::new("state-planted-1".into()),
                issuer: Some("https://id.example".into()),
            };
            let query = String::from_utf8_lossy(&bytes);
            hides(&format!("{:?}", judge("/callback", &query, &expected)))?;
            hides(&format!("{:?}", judge_pasted(&bytes, &expected)))?;
        }

        #[test]
        fn grant_files(bytes in changed(&FILES)) {
            let directory = tempfile::tempdir().unwrap();
            let config = config(directory.path());
            let store = Store::open(&config, "default").unwrap();
            std::fs::write(store.path(), &bytes).unwrap();
            let mode = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(store.path(), mode).unwrap();
            match store.load(1_779_000_000) {
                Ok(grant) => hides(&format!("{grant:?}"))?,
                Err(error) => hides(&format!("{error} {error:?}"))?,
            }
        }
    }
}
