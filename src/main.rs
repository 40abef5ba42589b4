//! Arguments, logging, runtime, exit code. What the commands do is in `cli/`.

use appliance::cli;
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    // One TLS provider for everything in the process; a second call would be a mistake of this file.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("error: the TLS provider was installed twice");
        return ExitCode::FAILURE;
    }
    if !arguments.is_for_the_caller() {
        appliance::host::set_umask();
    }
    cli::logging::start(arguments.is_service());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(8).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: could not start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(cli::execute(arguments));
    // A blocked thread (a terminal that is read, a database that hangs) must not keep the process.
    runtime.shutdown_background();
    ExitCode::from(code)
}
