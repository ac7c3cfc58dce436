//! What the simulated model says, in the shapes of OpenAI's two generating endpoints.
//!
//! The text is the words `word0 word1 …`, so that a reader can tell what is missing.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::Channel;
use serde_json::{Value, json};

/// The models there are.
pub(crate) const MODELS: [&str; 3] = ["grok-4", "grok-4-fast", "grok-3-mini"];

/// Of every answer, tokens that were spent on thinking.
const REASONING_TOKENS: usize = 5;

/// A completion that was asked for.
pub(crate) struct Completion {
    /// Number of this completion, for its id.
    pub(crate) number: u64,
    /// Unix seconds.
    pub(crate) created: u64,
    /// One of [`MODELS`].
    pub(crate) model: String,
    /// Pieces of text.
    pub(crate) chunks: usize,
    /// Length of the prompt, in bytes of JSON.
    pub(crate) prompt_bytes: usize,
}

impl Completion {
    fn piece(at: usize) -> String {
        format!("word{at} ")
    }

    fn text(&self) -> String {
        (0..self.chunks).map(Self::piece).collect()
    }

    fn prompt_tokens(&self) -> usize {
        self.prompt_bytes / 4 + 1
    }

    fn completion_tokens(&self) -> usize {
        self.chunks + REASONING_TOKENS
    }

    fn chat_usage(&self) -> Value {
        let (prompt, completion) = (self.prompt_tokens(), self.completion_tokens());
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": prompt / 2},
            "completion_tokens_details": {"reasoning_tokens": REASONING_TOKENS},
        })
    }

    fn responses_usage(&self) -> Value {
        let (input, output) = (self.prompt_tokens(), self.completion_tokens());
        json!({
            "input_tokens": input,
            "input_tokens_details": {"cached_tokens": input / 2},
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": REASONING_TOKENS},
            "total_tokens": input + output,
        })
    }

    /// The body of `POST /v1/chat/completions`.
    pub(crate) fn chat(&self) -> Value {
        json!({
            "id": format!("chatcmpl-{}", self.number),
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": self.text()},
                "finish_reason": "stop",
            }],
            "usage": self.chat_usage(),
        })
    }

    /// The same as events.
    pub(crate) fn chat_events(self, include_usage: bool) -> impl Iterator<Item = String> + Send {
        let event = |choices: Value, usage: Option<Value>| {
            let mut chunk = json!({
                "id": format!("chatcmpl-{}", self.number),
                "object": "chat.completion.chunk",
                "created": self.created,
                "model": self.model,
                "choices": choices,
            });
            if let (Some(usage), Value::Object(members)) = (usage, &mut chunk) {
                members.insert("usage".to_owned(), usage);
            }
            format!("data: {chunk}\n\n")
        };
        let delta = |delta: Value, finish: Option<&str>| {
            event(json!([{"index": 0, "delta": delta, "finish_reason": finish}]), None)
        };
        let role = delta(json!({"role": "assistant", "content": ""}), None);
        let finish = delta(json!({}), Some("stop"));
        let usage = include_usage.then(|| event(json!([]), Some(self.chat_usage())));
        let template = delta(json!({"content": "\u{0}"}), None);
        let content = (0..self.chunks).map(move |at| template.replace("\\u0000", &Self::piece(at)));
        let done = "data: [DONE]\n\n".to_owned();
        std::iter::once(role).chain(content).chain([finish]).chain(usage).chain([done])
    }

    /// The body of `POST /v1/responses`.
    pub(crate) fn response(&self) -> Value {
        let item = self.item("completed", json!([self.part(&self.text())]));
        let usage = self.responses_usage();
        self.response_object("completed", &json!([item]), &usage)
    }

    fn response_object(&self, status: &str, output: &Value, usage: &Value) -> Value {
        json!({
            "id": format!("resp_{}", self.number),
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.model,
            "output": output,
            "usage": usage,
        })
    }

    fn item_id(&self) -> String {
        format!("msg_{}", self.number)
    }

    fn item(&self, status: &str, content: Value) -> Value {
        json!({
            "id": self.item_id(),
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        })
    }

    fn part(&self, text: &str) -> Value {
        json!({"type": "output_text", "text": text, "annotations": []})
    }

    /// The same as events.
    pub(crate) fn response_events(self) -> impl Iterator<Item = String> + Send {
        let place = json!({"item_id": self.item_id(), "output_index": 0, "content_index": 0});
        let placed = |more: Value| merged(place.clone(), more);
        let text = self.text();
        let pending = self.response_object("in_progress", &json!([]), &Value::Null);
        let head = vec![
            ("response.created", json!({"response": pending})),
            ("response.in_progress", json!({"response": pending})),
            (
                "response.output_item.added",
                json!({"output_index": 0, "item": self.item("in_progress", json!([]))}),
            ),
            ("response.content_part.added", placed(json!({"part": self.part("")}))),
        ];
        let item = self.item("completed", json!([self.part(&text)]));
        let tail = vec![
            ("response.output_text.done", placed(json!({"text": text}))),
            ("response.content_part.done", placed(json!({"part": self.part(&text)}))),
            ("response.output_item.done", json!({"output_index": 0, "item": item})),
            ("response.completed", json!({"response": self.response()})),
        ];
        let deltas = (0..self.chunks).map(move |at| {
            let delta = json!({"delta": Self::piece(at)});
            ("response.output_text.delta", merged(place.clone(), delta))
        });
        let events = head.into_iter().chain(deltas).chain(tail).enumerate();
        events.map(|(sequence_number, (name, data))| {
            let data = merged(json!({"type": name, "sequence_number": sequence_number}), data);
            format!("event: {name}\ndata: {data}\n\n")
        })
    }
}

fn merged(mut into: Value, from: Value) -> Value {
    if let (Value::Object(members), Value::Object(more)) = (&mut into, from) {
        members.extend(more);
    }
    into
}

/// Sends events one by one, the first at once and each other after `pause`.
pub(crate) fn stream(
    events: impl Iterator<Item = String> + Send + 'static,
    pause: Duration,
) -> Response {
    let (mut sender, channel) = Channel::<Bytes, Infallible>::new(1);
    tokio::spawn(async move {
        for (number, event) in events.enumerate() {
            if number > 0 && !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            if sender.send_data(event.into()).await.is_err() {
                break;
            }
        }
    });
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")];
    (headers, Body::new(channel)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion() -> Completion {
        Completion { number: 7, created: 1, model: "grok-4".into(), chunks: 3, prompt_bytes: 40 }
    }

    fn data(event: &str) -> Value {
        let line = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn chat_chunks_add_up_to_the_whole() {
        let events: Vec<String> = completion().chat_events(true).collect();
        assert_eq!(events.last().unwrap(), "data: [DONE]\n\n");
        let chunks: Vec<Value> =
            events[..events.len() - 1].iter().map(|event| data(event)).collect();
        let text: String =
            chunks.iter().filter_map(|it| it["choices"][0]["delta"]["content"].as_str()).collect();
        let whole = completion().chat();
        assert_eq!(whole["choices"][0]["message"]["content"], json!(text));
        assert_eq!(chunks.last().unwrap()["usage"], whole["usage"]);
        assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "stop");
        assert_eq!(completion().chat_events(false).count(), events.len() - 1);
    }

    #[test]
    fn response_events_are_numbered_and_end_with_the_whole() {
        let events: Vec<String> = completion().response_events().collect();
        for (number, event) in events.iter().enumerate() {
            let data = data(event);
            assert_eq!(data["sequence_number"], json!(number));
            assert!(event.starts_with(&format!("event: {}\n", data["type"].as_str().unwrap())));
        }
        let deltas: String =
            events.iter().filter_map(|it| data(it)["delta"].as_str().map(str::to_owned)).collect();
        let last = data(events.last().unwrap());
        assert_eq!(last["response"], completion().response());
        assert_eq!(last["response"]["output"][0]["content"][0]["text"], json!(deltas));
    }
}
