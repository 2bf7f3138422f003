//! The program: see `start`.

fn main() -> std::process::ExitCode {
    runfcgi::start::run().into()
}
