//! `tasuki`: the server and its command line.

fn main() {
    tasuki_shared::exit::leave(tasuki::cli::run(tasuki::serve::serve))
}
