//! The `refresher` command. Everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    refresher::cli::main()
}
