//! The worker process. Started by the supervisor; see `tasuki_shared::inherit`.

use tasuki_shared::config::Log;
use tasuki_shared::exit::{Exit, leave};
use tasuki_shared::failpoint;
use tasuki_shared::inherit::Inherited;
use tasuki_shared::log_output;
use tasuki_shared::message::Role;

fn main() {
    let exit = run();
    log_output::flush();
    leave(exit)
}

fn run() -> Exit {
    let mut arguments = std::env::args().skip(1);
    let role = match (arguments.next().as_deref(), arguments.next()) {
        (Some("--role"), Some(role)) => role,
        _ => {
            eprintln!("tasuki-worker is started by `tasuki serve`: tasuki-worker --role ROLE");
            return Exit::Usage;
        }
    };
    let inherited = match Inherited::take(Some(&role)) {
        Ok(inherited) => inherited,
        Err(error) => {
            eprintln!("tasuki-worker: {error}");
            return Exit::Usage;
        }
    };
    failpoint::begin();
    let process = format!("{role} {}", inherited.generation);
    if let Err(error) = log_output::init(Log::default(), &process) {
        eprintln!("tasuki-worker: {error}");
        return Exit::Failure;
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "panic")));
    let work = move || match inherited.role {
        Role::Worker => tasuki_worker::lifecycle::run(inherited),
        Role::Dialer => tasuki_worker::dialer::run(inherited),
        Role::Delivery => tasuki_worker::delivery::run(inherited),
        Role::Console => tasuki_worker::console::run(inherited),
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(Exit::Panic)
}
