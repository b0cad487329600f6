//! `tasuki`: the server and its command line.

fn main() {
    let exit = tasuki::cli::run(tasuki::serve::serve);
    tasuki_shared::log_output::flush();
    tasuki_shared::exit::leave(exit)
}
