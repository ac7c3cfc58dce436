use super::*;
use proptest::prelude::*;
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

const CHAT: &str = r#"{"id":"c","model":"grok-4","choices":[{"message":{"content":"say \"usage\": {\"prompt_tokens\": 9} \\"}}],
    "usage":{"prompt_tokens":10,"completion_tokens":7,"total_tokens":17,
    "prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":5}}}"#;

const CHAT_STREAM: &str = "data: {\"model\":\"grok-4\",\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n\
    data: {\"model\":\"grok-4\",\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":7,\
    \"prompt_tokens_details\":{\"cached_tokens\":4},\"completion_tokens_details\":{\"reasoning_tokens\":5}}}\n\n\
    data: [DONE]\n\n";

const RESPONSES_STREAM: &str = "event: response.created\r\n\
    data: {\"type\":\"response.created\",\"response\":{\"model\":\"grok-4\",\"usage\":null}}\r\n\r\n\
    : a comment\r\n\
    event: response.output_text.delta\r\n\
    data: {\"type\":\"response.output_text.delta\",\"delta\":\"{\\\"usage\\\":1}\"}\r\n\r\n\
    event: response.completed\r\n\
    data: {\"type\":\"response.completed\",\"response\":{\"output\":[{\"usage\":{\"input_tokens\":99}}],\
    \"usage\":{\"input_tokens\":10,\"input_tokens_details\":{\"cached_tokens\":4},\"output_tokens\":7,\
    \"output_tokens_details\":{\"reasoning_tokens\":5},\"total_tokens\":17},\"model\":\"grok-4\"}}\r\n\r\n";

const TOKENS: Usage = Usage { prompt: 10, completion: 7, reasoning: 5, cached: 4 };

const JSON: &[u8] = b"application/json";
const SSE: &[u8] = b"text/event-stream; charset=utf-8";

fn counted<'a>(
    content_type: &[u8],
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Option<(String, Usage)> {
    let mut counter = Counter::of(200, content_type, false).unwrap();
    for chunk in chunks {
        counter.read(chunk);
    }
    counter.total()
}

fn grok(usage: Usage) -> Option<(String, Usage)> {
    Some(("grok-4".to_owned(), usage))
}

#[test]
fn every_form_of_an_answer_is_counted() {
    for (content_type, answer) in [(JSON, CHAT), (SSE, CHAT_STREAM), (SSE, RESPONSES_STREAM)] {
        assert_eq!(counted(content_type, [answer.as_bytes()]), grok(TOKENS), "{answer}");
        let bytewise = answer.as_bytes().chunks(1);
        assert_eq!(counted(content_type, bytewise), grok(TOKENS), "{answer}");
    }
    let responses = RESPONSES_STREAM.rsplit("\"response\":").next().unwrap();
    assert_eq!(counted(JSON, [responses.as_bytes()]), grok(TOKENS));
}

#[test]
fn a_stream_that_is_cut_off_counts_what_it_has_told() {
    let cut = CHAT_STREAM.split("data: [DONE]").next().unwrap();
    assert_eq!(counted(SSE, [cut.as_bytes()]), grok(TOKENS));
    let before = CHAT_STREAM.split_at(40).0;
    assert_eq!(counted(SSE, [before.as_bytes()]), None);
}

#[test]
fn the_last_usage_counts_and_null_is_none() {
    let event = |tokens: u32| format!("data: {{\"usage\":{{\"prompt_tokens\":{tokens}}}}}\n\n");
    let stream = format!("{}{}data: {{\"usage\":null}}\n\n", event(3), event(5));
    let usage = Usage { prompt: 5, ..Usage::default() };
    assert_eq!(counted(SSE, [stream.as_bytes()]), Some((String::new(), usage)));
}

#[test]
fn the_model_is_the_one_that_is_named_with_the_usage() {
    let event =
        |model: &str, usage: &str| format!("data: {{\"model\":\"{model}\",\"usage\":{usage}}}\n\n");
    let named = [event("a", "null"), event("b", "null"), event("c", "{}"), event("d", "null")];
    let (model, _) = counted(SSE, [named.concat().as_bytes()]).unwrap();
    assert_eq!(model, "c");
    let unnamed = format!("{}{}data: {{\"usage\":{{}}}}\n\n", named[0], named[1]);
    let (model, _) = counted(SSE, [unnamed.as_bytes()]).unwrap();
    assert_eq!(model, "a");
}

#[test]
fn an_event_of_several_lines_is_one_document() {
    let stream = "data: {\"model\":\"grok-4\",\ndata: \"usage\":{\"prompt_tokens\":\ndata:10}}\n\n";
    let usage = Usage { prompt: 10, ..Usage::default() };
    assert_eq!(counted(SSE, [stream.as_bytes()]), grok(usage));
    // A line's end stays between them, and is no part of a name.
    let stream = "data:{\"us\ndata:age\":{\"prompt_tokens\":1}}\n\n";
    assert_eq!(counted(SSE, [stream.as_bytes()]), None);
}

#[test]
fn what_is_not_at_its_place_is_not_usage() {
    for answer in [
        r#"[{"usage":{"prompt_tokens":1}}]"#,
        r#"{"choices":{"usage":{"prompt_tokens":1}}}"#,
        r#"{"response":{"output":{"usage":{"prompt_tokens":1}}}}"#,
        r#"{"response":[{"usage":{"prompt_tokens":1}}]}"#,
        r#"{"x":"usage","y":{"prompt_tokens":1}}"#,
        r#"{"usage":7}"#,
        r#"text {"usage":{"prompt_tokens":1}}"#,
        r#"{} {"usage":{"prompt_tokens":1}}"#,
        "",
    ] {
        assert_eq!(counted(JSON, [answer.as_bytes()]), None, "{answer}");
    }
}

#[test]
fn a_value_that_is_too_long_is_not_kept() {
    let long =
        format!(r#"{{"usage":{{"x":"{}","prompt_tokens":1}},"model":"m"}}"#, "x".repeat(5000));
    assert_eq!(counted(JSON, [long.as_bytes()]), None);
}

#[test]
fn only_readable_successes_are_counted() {
    assert!(Counter::of(200, b"application/json; charset=utf-8", false).is_some());
    assert!(Counter::of(201, b"Application/JSON", false).is_some());
    assert!(Counter::of(200, JSON, true).is_none());
    for status in [101, 304, 400, 403, 500] {
        assert!(Counter::of(status, JSON, false).is_none(), "{status}");
    }
    for content_type in
        ["", "text/plain", "application/jsonx", "audio/mpeg", "application/json-seq"]
    {
        assert!(Counter::of(200, content_type.as_bytes(), false).is_none(), "{content_type}");
    }
}

#[test]
fn a_label_is_short_and_plain() {
    assert_eq!(label("grok-4.1-fast"), "grok-4.1-fast");
    assert_eq!(label("a;b=c\n\u{e9}"), "a_b_c__");
    assert_eq!(label(""), "unknown");
    assert_eq!(label(&"x".repeat(100)).len(), MAX_MODEL);
}

proptest! {
    #[test]
    fn chunking_changes_nothing(
        which in 0_usize..3,
        mut cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20),
    ) {
        let (content_type, answer) = [(JSON, CHAT), (SSE, CHAT_STREAM), (SSE, RESPONSES_STREAM)][which];
        cuts.sort_unstable_by_key(|cut| cut.index(answer.len()));
        let mut chunks = Vec::new();
        let mut from = 0;
        for cut in cuts {
            let cut = cut.index(answer.len());
            chunks.push(&answer.as_bytes()[from..cut]);
            from = cut;
        }
        chunks.push(&answer.as_bytes()[from..]);
        prop_assert_eq!(counted(content_type, chunks), grok(TOKENS));
    }

    #[test]
    fn no_bytes_panic_and_no_chunking_matters(
        pieces in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40),
                proptest::sample::select(vec![
                    "{", "}", "[", "]", "\"", "\\", ":", ",", "\"usage\"", "\"model\"", "data:", "\n\n",
                    "\r", "\n", ":null", "\"response\":{", "{\"usage\":{", "data:{\"model\":\"m\"}\n\n",
                    "data: {\"usage\":{\"prompt_tokens\":1},\"model\":\"n\"}\n\n",
                ]).prop_map(|text| text.as_bytes().to_vec()),
            ], 0..200),
    ) {
        let bytes = pieces.concat();
        for content_type in [JSON, SSE] {
            let total = counted(content_type, pieces.iter().map(Vec::as_slice));
            prop_assert_eq!(&counted(content_type, [bytes.as_slice()]), &total);
            prop_assert_eq!(counted(content_type, bytes.chunks(1)), total);
        }
    }
}
