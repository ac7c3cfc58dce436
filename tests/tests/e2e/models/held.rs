//! Bodies that wait, and bodies that do not.

use super::*;
use rustix::process::Signal;

#[tokio::test]
async fn k08_a_key_without_a_list_has_its_body_passed_on_as_it_comes() -> Result<()> {
    let stack = stack().await?;
    let (mut parts, channel) = Channel::<Bytes>::new(1);
    let url = stack.url("/v1/echo");
    let request = stack.client.post(url).bearer_auth(BOB).body(reqwest::Body::wrap(channel));
    let answer = tokio::spawn(request.send());
    parts.send_data(Bytes::from_static(b"first")).await?;
    let first = |control: &simulator::Control| {
        control.requests().iter().any(|request| request.body_bytes == 5)
    };
    // It is there while the rest has not even been sent.
    tokio::time::timeout(LIMIT, stack.provider().wait_until(first)).await?;
    parts.send_data(Bytes::from_static(b", then the rest")).await?;
    drop(parts);
    let answer: Value = answer.await??.json().await?;
    assert_eq!(answer["body_bytes"], 20);

    // That of a limited key stays here until it is whole.
    stack.provider().clear();
    let (mut parts, channel) = Channel::<Bytes>::new(1);
    let request = stack.client.post(stack.url(CHAT)).bearer_auth(ALICE);
    let answer = tokio::spawn(request.body(reqwest::Body::wrap(channel)).send());
    let (first, rest) = GOOD.split_at(40);
    parts.send_data(Bytes::from_static(first.as_bytes())).await?;
    let bob = stack.client.get(stack.url("/v1/models")).bearer_auth(BOB);
    assert_eq!(bob.send().await?.status(), 200);
    assert_eq!(stack.provider().requests().len(), 1, "bob's alone");
    parts.send_data(Bytes::from_static(rest.as_bytes())).await?;
    drop(parts);
    assert_eq!(answer.await??.status(), 200);
    Ok(())
}

#[tokio::test]
async fn k08_a_body_that_waits_for_the_first_bundle_is_judged_with_it() -> Result<()> {
    // The keys are published: the gate does not know them before.
    let mut stack = Stack::prepare(Plan { login: false, ..Plan::default() }).await?;
    stack.start_envoy().await?;
    let client = &stack.client;
    let post = async |body: &'static str| {
        let request = client.post(stack.url(CHAT)).bearer_auth(ALICE).body(body);
        anyhow::Ok(request.send().await?)
    };
    let (good, bad, large, published) = tokio::join!(post(GOOD), post(BAD), post(GOOD), async {
        let waiting = eventually(LIMIT, async || {
            let active = stack.stat("http.proxy.downstream_rq_active").await.ok()?;
            (active == 3).then_some(())
        });
        waiting.await.context("three requests under way")?;
        let publisher = Publisher::start(&stack.socket())?;
        publisher.publish_for(stack.provider(), &[alice()?]);
        anyhow::Ok(publisher)
    });
    let _published = published?;
    assert_eq!(good?.status(), 200);
    assert_eq!(large?.status(), 200);
    let bad = bad?;
    assert_eq!(bad.status(), 403);
    assert_eq!(bad.json::<Value>().await?["error"]["code"], "model_not_allowed");
    assert_eq!(stack.provider().requests().len(), 2);
    Ok(())
}

#[tokio::test]
async fn k08_a_body_that_waits_for_a_token_is_judged_too() -> Result<()> {
    let limited_keys = vec![alice()?];
    let stack = Stack::start(Plan { limited_keys, workers: 1, ..Plan::default() }).await?;
    let request = stack.client.get(stack.url("/v1/models")).bearer_auth(ALICE);
    assert_eq!(request.send().await?.status(), 200, "the token is there");
    stack.provider().clear();
    stack.provider().kill_access_token();
    stack.refresher()?.signal(Signal::STOP)?;
    let post = |body: &'static str| {
        let request = stack.client.post(stack.url(CHAT)).bearer_auth(ALICE).body(body);
        async move { anyhow::Ok(request.send().await?.status().as_u16()) }
    };
    let good = tokio::spawn(post(GOOD));
    let refused = |control: &simulator::Control| control.summary().refused == 1;
    tokio::time::timeout(LIMIT, stack.provider().wait_until(refused)).await?;
    // The token is known to be dead: this one waits, that one need not.
    let also_good = tokio::spawn(post(GOOD));
    assert_eq!(post(BAD).await?, 403);
    stack.refresher()?.signal(Signal::CONT)?;
    assert_eq!(good.await??, 200);
    assert_eq!(also_good.await??, 200);
    assert_eq!(stack.provider().requests().len(), 3);
    Ok(())
}
