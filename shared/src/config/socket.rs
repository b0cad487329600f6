//! Where the status socket is when nothing says otherwise. Server and command line ask here.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

const FILE: &str = "status.sock";
/// Where the system's service has its runtime directory.
const SYSTEM: &str = "/run/tasuki/status.sock";

/// What the environment says about runtime directories.
#[derive(Clone, Copy, Debug)]
pub struct RuntimeDirectories<'a> {
    /// `RUNTIME_DIRECTORY`, set by systemd for a service; a colon-separated list.
    pub service: Option<&'a OsStr>,
    /// `XDG_RUNTIME_DIR`, set for a login session.
    pub session: Option<&'a OsStr>,
    pub uid: u32,
}

/// The default path for these directories; relative or empty ones are ignored.
#[must_use]
pub fn default_socket(directories: RuntimeDirectories<'_>) -> PathBuf {
    let service = directories.service.and_then(first_of_list);
    if let Some(directory) = service.as_deref().and_then(absolute) {
        return directory.join(FILE);
    }
    if let Some(directory) = directories.session.and_then(|text| absolute(Path::new(text))) {
        return directory.join("tasuki").join(FILE);
    }
    PathBuf::from(format!("/tmp/tasuki-{}", directories.uid)).join(FILE)
}

/// The default path for this process.
#[must_use]
pub fn default_socket_here() -> PathBuf {
    let service = std::env::var_os("RUNTIME_DIRECTORY");
    let session = std::env::var_os("XDG_RUNTIME_DIR");
    default_socket(RuntimeDirectories {
        service: service.as_deref(),
        session: session.as_deref(),
        uid: nix::unistd::getuid().as_raw(),
    })
}

/// Where a client looks, in this order: its own default, then the system's service.
#[must_use]
pub fn client_sockets() -> Vec<PathBuf> {
    let own = default_socket_here();
    let system = PathBuf::from(SYSTEM);
    if own == system { vec![own] } else { vec![own, system] }
}

fn first_of_list(list: &OsStr) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    list.as_bytes()
        .split(|b| *b == b':')
        .next()
        .map(|first| PathBuf::from(OsStr::from_bytes(first)))
}

fn absolute(directory: &Path) -> Option<&Path> {
    directory.is_absolute().then_some(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(service: Option<&str>, session: Option<&str>) -> PathBuf {
        let service = service.map(OsStr::new);
        let session = session.map(OsStr::new);
        default_socket(RuntimeDirectories { service, session, uid: 1000 })
    }

    #[test]
    fn the_service_directory_comes_before_the_session_and_both_before_tmp() {
        let service = Some("/run/tasuki:/run/other");
        assert_eq!(socket(service, Some("/run/user/1000")), Path::new("/run/tasuki/status.sock"));
        let session = Path::new("/run/user/1000/tasuki/status.sock");
        assert_eq!(socket(None, Some("/run/user/1000")), session);
        assert_eq!(socket(None, None), Path::new("/tmp/tasuki-1000/status.sock"));
    }

    #[test]
    fn a_relative_or_empty_directory_is_ignored() {
        assert_eq!(socket(Some(""), Some("x")), Path::new("/tmp/tasuki-1000/status.sock"));
    }
}
