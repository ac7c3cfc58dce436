use std::time::Duration;

use super::*;
use crate::allowance::Excuse;

/// A row in which all went well.
fn row(fault: Option<Fault>) -> Row {
    Row { fault, begun_s: vec![1.5], requests: 100, ..Row::default() }
}

/// Ten minutes, each bound just kept.
pub fn sound() -> Report {
    Report {
        seed: 1,
        minutes: 10.0,
        rotations: 75,
        streams: 100,
        without_bearer: 0,
        spent_twice: 0,
        lost_answers: 0,
        refresher: Grown { growth_kib: REFRESHER_GROWTH_KIB, ..Grown::default() },
        envoy: Grown { growth_kib: ENVOY_GROWTH_KIB, ..Grown::default() },
        rows: vec![
            Row { allowed_failures: 9, ..row(Some(Fault::EnvoyKilled)) },
            Row { requests: 0, ..row(None) },
        ],
        latest_s: 100.0,
        error: None,
        examples: Vec::new(),
    }
}

/// The same with one bound broken in each, and how that is told.
pub fn breaches() -> Vec<(&'static str, Report)> {
    let rows = |row: Row| Report { rows: vec![row], ..sound() };
    let grown = |growth_kib| Grown { growth_kib, ..Grown::default() };
    let killed = row(Some(Fault::EnvoyKilled));
    vec![
        (
            "unexpected failures: 1, expected 0",
            rows(Row { unexpected_failures: 1, ..killed.clone() }),
        ),
        ("unexpected failures: 2, expected 0", rows(Row { unexpected_failures: 2, ..row(None) })),
        ("streams cut: 1, expected 0", rows(Row { streams_cut: 1, ..killed.clone() })),
        ("envoy killed: no request met it", rows(Row { requests: 0, ..killed })),
        ("grants spent twice: 1, expected 0", Report { spent_twice: 1, ..sound() }),
        ("requests without the bearer: 1, expected 0", Report { without_bearer: 1, ..sound() }),
        ("rotations: 74, expected at least 75", Report { rotations: 74, ..sound() }),
        (
            "refresher grew by 2049 KiB, accepted are 2048",
            Report { refresher: grown(REFRESHER_GROWTH_KIB + 1.0), ..sound() },
        ),
        (
            "envoy grew by 16385 KiB, accepted are 16384",
            Report { envoy: grown(ENVOY_GROWTH_KIB + 1.0), ..sound() },
        ),
        (
            "disk full: the fault had no effect",
            Report { error: Some("disk full: the fault had no effect".to_owned()), ..sound() },
        ),
    ]
}

#[test]
fn each_bound_alone_is_told() {
    assert_eq!(sound().broken(), Vec::<String>::new());
    for (told, report) in breaches() {
        assert_eq!(report.broken(), [told]);
    }
}

#[test]
fn a_broken_bound_comes_with_examples() {
    let examples = vec!["503: no".to_owned()];
    let broken = Report { spent_twice: 1, examples, ..sound() }.broken();
    assert_eq!(broken, ["grants spent twice: 1, expected 0", "for example: 503: no"]);
}

const SECOND: Duration = Duration::from_secs(1);

fn failed(second: u32, during: Option<Fault>, failure: Failure) -> Failed {
    let at = SECOND * second;
    Failed { began: at, ended: at, during, failure, seen: format!("{failure:?}") }
}

fn findings(record: Record, losses: Losses) -> Findings {
    let planned = |fault| (Planned { at: SECOND, fault, seed: 0 }, SECOND * 2);
    Findings {
        seed: 1,
        minutes: 0.1,
        summary: Summary { refreshes: 9, spent_twice: 3, ..Summary::default() },
        record,
        without_bearer: 0,
        begun: vec![planned(Fault::EnvoyKilled), planned(Fault::DiskFull)],
        losses,
        memory: Memory::default(),
        error: None,
    }
}

#[test]
fn failures_are_told_where_they_belong() {
    let (killed, full) = (Some(Fault::EnvoyKilled), Some(Fault::DiskFull));
    let record = Record {
        requests: [(killed, 10), (full, 20), (None, 30)].into(),
        failures: vec![
            failed(10, killed, Failure::Connection),
            // Ended only when the next fault had begun, and is the kill's nonetheless.
            failed(12, full, Failure::Cut),
            failed(11, killed, Failure::Answer),
            failed(20, full, Failure::Connection),
            failed(21, full, Failure::Cut),
            failed(22, None, Failure::LoginRequired),
        ],
        ..Record::default()
    };
    let excuse = Excuse { fault: Fault::EnvoyKilled, from: SECOND * 9, until: SECOND * 12 };
    let report =
        Report::new(&findings(record, Losses { excuses: vec![excuse], ..Losses::default() }));
    let told: Vec<_> = report
        .rows
        .iter()
        .map(|row| {
            let failures = [row.allowed_failures, row.unexpected_failures, row.streams_cut];
            (row.name(), row.begun_s.len(), row.requests, failures)
        })
        .collect();
    assert_eq!(
        told,
        [
            ("envoy killed", 1, 10, [2, 1, 0]),
            ("disk full", 1, 20, [0, 1, 1]),
            ("none", 0, 30, [0, 1, 0])
        ]
    );
    let first = report.examples.first().unwrap();
    assert_eq!(
        (report.examples.len(), first.as_str()),
        (4, "11.000 s to 11.000 s, envoy killed: Answer")
    );
    assert!((report.latest_s - 1.0).abs() < 1e-9);
}

#[test]
fn an_answer_that_was_lost_with_a_killed_refresher_is_one_grant_that_may_be_spent_twice() {
    for (lost_answers, spent_twice) in [(0, 3), (2, 1), (3, 0)] {
        let losses = Losses { lost_answers, ..Losses::default() };
        assert_eq!(Report::new(&findings(Record::default(), losses)).spent_twice, spent_twice);
    }
}

#[test]
fn a_report_has_the_members_that_are_promised() {
    let json = sound().json();
    for member in [
        "seed",
        "minutes",
        "rotations",
        "requests",
        "streams",
        "unexpected_failures",
        "grants_spent_twice",
        "unanswered_exchanges",
        "requests_without_bearer",
        "streams_cut",
        "refresher_rss_kib",
        "envoy_rss_kib",
        "refresher_rss_slope_kib_per_hour",
        "envoy_rss_slope_kib_per_hour",
    ] {
        assert!(json[member].is_number(), "{member}");
    }
    assert_eq!(json["requests"], 100);
    assert_eq!(json["faults"][0]["fault"], "envoy killed");
    assert_eq!(json["faults"][0]["count"], 1);
    assert_eq!(json["faults"][0]["requests"], 100);
    assert_eq!(json["faults"][0]["allowed_failures"], 9);
    assert_eq!(json["faults"][0]["unexpected_failures"], 0);
    assert_eq!(json["faults"][1]["allowance"], "nothing");
}
