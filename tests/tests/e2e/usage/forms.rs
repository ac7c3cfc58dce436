//! The forms and the chunks in which answers come.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::{Plan, Stack};

use super::{ALICE, answered, awaited, stack, whole};

/// An answer of each form: its content type, and the answer with a model and tokens of its own.
fn forms(model: &str) -> [(&'static str, String); 4] {
    let chat = json!({
        "prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 5}
    });
    let responses = json!({
        "input_tokens": 10, "output_tokens": 7, "total_tokens": 17,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens_details": {"reasoning_tokens": 5}
    });
    let content = r#"say \"usage\": {\"prompt_tokens\": 9} é"#;
    [
        ("application/json", format!(r#"{{"model":"{model}","text":"{content}","usage":{chat}}}"#)),
        (
            "text/event-stream",
            format!(
                "data: {{\"model\":\"{model}\",\"x\":\"{content}\",\"usage\":null}}\n\n\
                 data: {{\"model\":\"{model}\",\"choices\":[],\"usage\":{chat}}}\n\ndata: [DONE]\n\n"
            ),
        ),
        (
            "application/json; charset=utf-8",
            format!(r#"{{"usage":{responses},"model":"{model}"}}"#),
        ),
        (
            "text/event-stream; charset=utf-8",
            format!(
                "event: response.created\r\ndata: {{\"response\":{{\"usage\":null}}}}\r\n\r\n: note\r\n\
                 event: response.completed\r\ndata: {{\"response\":{{\"usage\":{responses},\
                 \"model\":\"{model}\"}}}}\r\n\r\n"
            ),
        ),
    ]
}

#[tokio::test]
async fn an_answer_is_counted_and_unchanged_however_it_is_cut() -> Result<()> {
    let stack = stack().await?;
    for (number, (content_type, body)) in forms("cut").into_iter().enumerate() {
        let model = format!("cut-{number}");
        let body = body.replace("cut", &model);
        let content_type = content_type.replace(' ', "%20").replace(';', "%3B");
        let mut times = 0;
        // At every byte, and all of them at once.
        let splits = (1..body.len()).map(|at| format!("split={at}&delay_ms=2"));
        for cut in
            splits.chain(["chunk=1&delay_ms=1".to_owned(), "chunk=7".to_owned(), String::new()])
        {
            let query = format!("content_type={content_type}&{cut}");
            let (status, arrived) = answered(&stack, &query, body.as_bytes()).await?;
            ensure!(status == 200 && arrived == body.as_bytes(), "{content_type} {cut}");
            times += 1;
        }
        awaited(&stack, &model, [10, 7, 5, 4].map(|tokens| tokens * times)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn large_events_and_answers_are_counted() -> Result<()> {
    let stack = stack().await?;
    let large = "x".repeat(1 << 20);
    let events = format!(
        "data: {{\"model\":\"large\",\"text\":\"{large}\"}}\n\n\
         data: {{\"model\":\"large\",\"text\":\"{large}\",\"usage\":{{\"prompt_tokens\":3}}}}\n\n"
    );
    let (status, arrived) =
        answered(&stack, "content_type=text/event-stream", events.as_bytes()).await?;
    ensure!(status == 200 && arrived == events.as_bytes());
    let answer = format!(r#"{{"text":"{large}","usage":{{"prompt_tokens":4}},"model":"large"}}"#);
    let (status, arrived) = answered(&stack, "", answer.as_bytes()).await?;
    ensure!(status == 200 && arrived == answer.as_bytes());
    awaited(&stack, "large", [7, 0, 0, 0]).await
}

#[tokio::test]
async fn what_tells_nothing_or_cannot_be_read_passes_uncounted() -> Result<()> {
    let stack = stack().await?;
    // gzip, as Python has it, of an answer with usage.
    let zipped = gzip(whole("zipped", 9).as_bytes());
    for (query, body) in [
        ("content_encoding=gzip", zipped.as_slice()),
        ("status=400", whole("failed", 9).as_bytes()),
        ("status=500", whole("failed", 9).as_bytes()),
        ("content_type=text/plain", whole("text", 9).as_bytes()),
        ("", br#"{"model":"none","choices":[]}"#),
        ("", b"not json {\"usage\":{\"prompt_tokens\":9}}"),
        ("content_type=text/event-stream", b"data: {\"model\":\"none\"}\n\ndata: [DONE]\n\n"),
        ("", b""),
    ] {
        let request = stack.client.post(stack.url(&format!("/v1/body?{query}")));
        let answer = request.bearer_auth(ALICE).body(body.to_vec()).send().await?;
        let encoding = answer.headers().get("content-encoding").is_some();
        assert_eq!(encoding, query.contains("gzip"));
        assert_eq!(answer.bytes().await?, body, "{query}");
    }
    answered(&stack, "", whole("last", 1).as_bytes()).await?;
    awaited(&stack, "last", [1, 1, 0, 0]).await?;
    let metrics = stack.metrics().await?;
    let models: Vec<_> = metrics.of(super::TOKENS).map(|sample| &sample.labels["model"]).collect();
    ensure!(models.iter().all(|model| *model == "last"), "{models:?}");
    Ok(())
}

/// A gzip member with one stored block (RFC 1951, section 3.2.4). Its checksum is left at zero.
fn gzip(data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap_or(0);
    let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1];
    let lengths = [length.to_le_bytes(), (!length).to_le_bytes()].concat();
    [head.as_slice(), &lengths, data, &[0; 8]].concat()
}

#[tokio::test]
async fn an_answer_that_the_client_leaves_counts_what_it_has_told() -> Result<()> {
    let stack = stack().await?;
    let told = "data: {\"model\":\"left\",\"usage\":{\"prompt_tokens\":3}}\n\n";
    let body = format!("{told}data: {{\"usage\":{{\"prompt_tokens\":99}}}}\n\n");
    let query = format!("content_type=text/event-stream&split={}&delay_ms=600000", told.len());
    let request = stack.client.post(stack.url(&format!("/v1/body?{query}")));
    let mut answer = request.bearer_auth(ALICE).body(body).send().await?;
    let first = tokio::time::timeout(super::LIMIT, answer.chunk()).await??.context("an event")?;
    assert_eq!(first, told);
    drop(answer);
    awaited(&stack, "left", [3, 0, 0, 0]).await
}

#[tokio::test]
async fn several_workers_and_lives_add_up() -> Result<()> {
    let client_keys = vec![("alice", ALICE)];
    let stack = Stack::start(Plan { client_keys, workers: 4, ..Plan::default() }).await?;
    let answers = (0..200)
        .map(|_| answered(&stack, "", b"{\"model\":\"m\",\"usage\":{\"prompt_tokens\":2}}"));
    for answer in futures_util::future::join_all(answers).await {
        assert_eq!(answer?.0, 200);
    }
    awaited(&stack, "m", [400, 0, 0, 0]).await
}
