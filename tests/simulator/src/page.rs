//! The few pages that a user sees. Self-contained: no script, nothing loaded.

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use axum::response::{Html, IntoResponse, Response};

const STYLE: &str = "
    body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: #f4f4f5;
           font: 16px/1.5 system-ui, sans-serif; color: #18181b }
    main { background: #fff; padding: 2rem 2.5rem; border-radius: 12px; max-width: 26rem;
           box-shadow: 0 1px 3px #0002, 0 8px 24px #0001 }
    h1 { font-size: 1.25rem; margin: 0 0 .75rem }
    ul { padding-left: 1.25rem }
    code, input { font-family: ui-monospace, monospace }
    input { display: block; width: 100%; box-sizing: border-box; margin: .25rem 0 1rem; padding: .6rem;
            font-size: 1.25rem; letter-spacing: .1em; border: 1px solid #d4d4d8; border-radius: 8px }
    button { padding: .6rem 1.4rem; font: inherit; border: 0; border-radius: 8px; cursor: pointer;
             background: #e4e4e7 }
    #approve { background: #18181b; color: #fff; margin-right: .5rem }
    @media (prefers-color-scheme: dark) {
        body { background: #18181b; color: #f4f4f5 } main { background: #27272a }
        #approve { background: #f4f4f5; color: #18181b }
        button { background: #3f3f46; color: inherit } input { background: #18181b; color: inherit }
    }";

const BUTTONS: &str = r#"<button id="approve" name="decision" value="approve">Approve</button>
<button id="deny" name="decision" value="deny">Deny</button>"#;

/// Asks whether a client may have what it wants.
pub(crate) fn consent(id: &str, client: Option<&str>, scope: Option<&str>) -> Response {
    let scopes = scope.unwrap_or("everything").split(' ');
    let scopes: String =
        scopes.map(|scope| format!("<li><code>{}</code></li>", escape(scope))).collect();
    let body = format!(
        r#"<p><strong>{}</strong> asks for access to your simulated account:</p><ul>{scopes}</ul>
<form method="post" action="/oauth2/consent">
<input type="hidden" name="consent" value="{}">
{BUTTONS}</form>"#,
        escape(client.unwrap_or_default()),
        escape(id),
    );
    page(StatusCode::OK, "Authorize access", &body)
}

/// Asks for a user code and a decision about it.
pub(crate) fn device(user_code: &str) -> Response {
    let body = format!(
        r#"<form method="post" action="/device">
<label for="user_code">The code that your device shows</label>
<input id="user_code" name="user_code" value="{}" autocomplete="off" autofocus>
{BUTTONS}</form>"#,
        escape(user_code),
    );
    page(StatusCode::OK, "Connect a device", &body)
}

/// Says that there is nothing more to do.
pub(crate) fn done(message: &str) -> Response {
    page(StatusCode::OK, "Done", &format!("<p>{} You can close this page.</p>", escape(message)))
}

/// Says what is wrong, with status 400.
pub(crate) fn error(message: &str) -> Response {
    page(StatusCode::BAD_REQUEST, "This did not work", &format!("<p>{}</p>", escape(message)))
}

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style><main><h1>{title}</h1>{body}</main></html>\n"
    );
    // No form-action: browsers apply it to the redirect that follows the form too.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    let headers = [
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, policy),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (status, headers, Html(html)).into_response()
}

fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, character| {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_escapes_from_an_attribute() {
        assert_eq!(escape("\"><script>'&"), "&quot;&gt;&lt;script&gt;&#39;&amp;");
    }
}
