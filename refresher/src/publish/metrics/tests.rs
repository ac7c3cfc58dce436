use super::*;
use crate::overview::Worker;
use crate::publish::health::{Health, Refreshes, Rejections};

fn overview() -> Overview {
    let status = Status {
        state: "ready".to_owned(),
        generation: Some(7),
        expires_at: Some(2000),
        oauth_refresh: Refreshes {
            refresh_success_count: 5,
            refresh_failure_count: 3,
            refresh_token_rotated: true,
            ..Refreshes::default()
        },
        rejection_refresh: Rejections { attempts: 4, successes: 3, renewals: 2, failures: 1 },
        alarm: Some("disk full".to_owned()),
        ..Status::default()
    };
    Overview {
        version: "1.2.3".to_owned(),
        started_at: 900,
        starts_envoy: Some(true),
        at: 1000,
        health: Health {
            status: "degraded".to_owned(),
            provider: "xai-oauth".to_owned(),
            provider_setting: "xai".to_owned(),
            api_base: "https://api.x.ai".to_owned(),
            token_expires_at: Some(2000),
            token_seconds_to_expiry: Some(1000),
            token_endpoint: None,
            oauth_reauth_required: true,
            oauth_refresh: status.oauth_refresh.clone(),
            client_keys_alarm: Some("gone".to_owned()),
            config_alarm: None,
            generation: 8,
            credentials: [(DEFAULT_CREDENTIAL.to_owned(), status)].into(),
            deep_check: None,
        },
        workers: vec![Worker {
            id: "a1".to_owned(),
            envoy: None,
            generation: 8,
            lag_ms: Some(1004),
            seen_at: 999,
        }],
        envoy: None,
    }
}

#[test]
fn every_fact_has_its_series() {
    let overview = overview();
    let envoy = Page::parse(
        "# TYPE torchbearer_responses_total counter\n\
         torchbearer_responses_total{method=\"GET\",status=\"200\"} 9\n\
         # TYPE envoy_http_downstream_rq_time histogram\n\
         envoy_http_downstream_rq_time_sum{envoy_http_conn_manager_prefix=\"proxy\"} 1500\n\
         envoy_http_downstream_rq_time_count{envoy_http_conn_manager_prefix=\"proxy\"} 9\n\
         # TYPE proxy_token_expires_at gauge\nproxy_token_expires_at 1\n\
         # TYPE envoy_wasm_torchbearer_gate_vm_reload_success counter\n\
         envoy_wasm_torchbearer_gate_vm_reload_success 2\n",
    );
    let facts =
        Facts { overview: &overview, resident_bytes: Some(4096), check: None, envoy: Some(envoy) };
    let text = page(facts).text();
    for line in [
        "proxy_token_expires_at 2000",
        "proxy_token_seconds_to_expiry 1000",
        "proxy_oauth_refresh_success_total 5",
        "proxy_oauth_refresh_failure_total 3",
        "proxy_oauth_refresh_token_rotated 1",
        "proxy_oauth_reauth_required 1",
        "proxy_oauth_401_refresh_attempts_total 4",
        "proxy_oauth_401_refresh_successes_total 3",
        "proxy_oauth_401_refresh_failures_total 1",
        "proxy_requests_total{method=\"GET\",status=\"200\"} 9",
        "proxy_request_duration_seconds_total 1.5",
        "proxy_request_count_total 9",
        "torchbearer_credential_state{credential=\"default\",state=\"ready\"} 1",
        "torchbearer_credential_state{credential=\"default\",state=\"login_required\"} 0",
        "torchbearer_credential_generation{credential=\"default\"} 7",
        "torchbearer_credential_alarm{credential=\"default\"} 1",
        "torchbearer_refresher_refreshes_total{credential=\"default\",cause=\"rejection\",outcome=\"success\"} 3",
        "torchbearer_refresher_refreshes_total{credential=\"default\",cause=\"schedule\",outcome=\"success\"} 3",
        "torchbearer_refresher_refreshes_total{credential=\"default\",cause=\"schedule\",outcome=\"failure\"} 2",
        "torchbearer_refresher_build_info{version=\"1.2.3\"} 1",
        "torchbearer_refresher_uptime_seconds 100",
        "torchbearer_refresher_resident_memory_bytes 4096",
        "torchbearer_refresher_alarms 2",
        "torchbearer_worker_generation{worker=\"a1\"} 8",
        "torchbearer_worker_lag_seconds{worker=\"a1\"} 1.004",
        "torchbearer_envoy_wasm_reloads_total{place=\"gate\",outcome=\"success\"} 2",
        "torchbearer_envoy_wasm_reloads_total{place=\"bearer\",outcome=\"failure\"} 0",
        "torchbearer_envoy_up 1",
    ] {
        assert!(text.lines().any(|it| it == line), "{line}: {text}");
    }
    assert_eq!(text.matches("# TYPE proxy_token_expires_at ").count(), 1);
}

#[test]
fn without_envoy_the_refreshers_part_is_there() {
    let overview = overview();
    let facts = Facts { overview: &overview, resident_bytes: None, check: None, envoy: None };
    let text = page(facts).text();
    assert!(text.contains("\ntorchbearer_envoy_up 0\n"), "{text}");
    assert!(text.contains("\nproxy_token_expires_at 2000\n"), "{text}");
    assert!(!text.contains("proxy_request_count_total"), "{text}");
}
