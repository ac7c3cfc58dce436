//! Envoy, refresher and provider as containers of their own, on private networks: the shipped compose
//! file, with the shipped image of the refresher.
//!
//! Without a Docker engine each test is skipped, and says so by its name. What a test makes is removed
//! when it ends, however it ends.

#![expect(
    clippy::indexing_slicing,
    reason = "allowed in tests, of which clippy does not know one that has a main of its own"
)]

mod audit;
mod deployment;
mod engine;
mod envoys;
mod images;
mod load;
mod network;
mod provider;
mod restarts;
mod shipped;
mod volumes;

use std::pin::Pin;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use libtest_mimic::{Arguments, Completion, Trial};

use deployment::{Deployment, Plan};

type Proof<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A test: what is to be there, and what has to hold of it.
struct Case {
    name: &'static str,
    plan: Plan,
    proof: for<'a> fn(&'a mut Deployment) -> Proof<'a>,
}

/// Names a test after its function.
macro_rules! case {
    ($module:ident :: $name:ident, $plan:expr) => {
        Case {
            name: concat!(stringify!($module), "::", stringify!($name)),
            plan: $plan,
            proof: |deployment| Box::pin($module::$name(deployment)),
        }
    };
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let engine = engine::answers();
    let cases = [
        case!(shipped::the_compose_file_serves_with_a_key_and_shares_its_socket, Plan::default()),
        case!(network::a_cut_network_costs_no_request_and_heals, Plan::brief()),
        case!(restarts::in_each_order_nothing_goes_without_a_bearer, Plan::default()),
        case!(restarts::twenty_of_each_under_load_lose_nothing_else, Plan::brief()),
        case!(envoys::one_is_replaced_by_another_and_streams_stay_whole, Plan::two_envoys()),
        case!(envoys::two_share_a_refresher, Plan::two_envoys()),
        case!(volumes::a_full_one_spends_no_grant_and_recovers, Plan::small_state()),
        case!(volumes::a_read_only_one_spends_no_grant_and_recovers, Plan::default()),
    ];
    let trials = cases.into_iter().map(|case| {
        Trial::ignorable_test(case.name, move || {
            if !engine {
                // On a line of its own, whatever other threads print.
                print!("\nskipped: containers::{}: no Docker engine\n", case.name);
                return Ok(Completion::ignored_with("no Docker engine"));
            }
            run(&case).map_err(|error| format!("{error:#}"))?;
            Ok(Completion::Completed)
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if engine {
        images::remove();
    }
    conclusion.exit_code()
}

/// Runs one, and looks at what has to hold after all of them.
fn run(case: &Case) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut deployment =
            Deployment::start(case.plan.clone()).await.context("the deployment does not start")?;
        let proof = (case.proof)(&mut deployment).await;
        let audit = deployment.audit().await.context("the audit afterwards");
        if proof.is_err() || audit.is_err() {
            deployment.print_logs().await;
        }
        proof.and(audit)
    })
}
