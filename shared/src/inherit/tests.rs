use super::*;
use crate::channel::{Channel, Sent, pair};
use crate::message::{Envelope, FromWorker, ToWorker};
use nix::fcntl::OFlag;
use std::io::Read;
use std::os::fd::AsFd;

#[test]
fn a_role_is_read_as_it_is_written() {
    for role in [Role::Worker, Role::Dialer] {
        assert_eq!(Role::from_name(role.name()), Some(role));
    }
    assert_eq!(Role::from_name("root"), None);
}

#[test]
fn without_a_supervisor_the_variable_that_is_missing_is_named() {
    if std::env::var_os(CONTROL_FD_VARIABLE).is_some() {
        return;
    }
    let error = Inherited::take(Some("worker")).unwrap_err();
    assert!(error.to_string().contains(GENERATION_VARIABLE), "{error}");
    assert!(matches!(Inherited::take(Some("admiral")), Err(InheritError::UnknownRole)));
}

/// The child is this test binary, made to run the test below by a script between the two.
#[test]
fn a_child_takes_its_channel_role_and_generation_and_inherits_no_other_fd() {
    let directory = std::env::temp_dir().join(format!("tasuki-inherit-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let script = directory.join("child");
    let test = std::env::current_exe().unwrap();
    let text = format!(
        "#!/bin/sh\nTASUKI_TEST_ROLE=\"$2\" exec '{}' --exact inherit::tests::answer_as_a_child\n",
        test.display()
    );
    std::fs::write(&script, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();

    let environment = [("TASUKI_TEST_LOG", "debug".to_owned())];
    let (mut ours, theirs) = pair::<ToWorker, FromWorker>().unwrap();
    let (knell, their_knell) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    let fds = Fds { control: theirs.as_fd(), knell: Some(their_knell.as_fd()) };
    let mut child = spawn(&script, Role::Dialer, Generation(42), &environment, fds).unwrap();
    drop((theirs, their_knell));
    assert_eq!(std::fs::File::from(knell).read(&mut [0]).unwrap(), 0, "the child held it and died");
    assert!(child.wait().unwrap().success());
    let (envelope, _) = ours.recv().unwrap().unwrap();
    assert_eq!(envelope, Envelope { generation: Generation(42), body: FromWorker::Ready });
    std::fs::remove_dir_all(&directory).unwrap();
}

/// Does nothing unless it is the child of the test above.
#[test]
fn answer_as_a_child() {
    let Some(role) = std::env::var_os("TASUKI_TEST_ROLE") else { return };
    let inherited = Inherited::take(role.to_str()).unwrap();
    assert_eq!(inherited.role, Role::Dialer);
    assert_eq!(std::env::var("TASUKI_TEST_LOG").as_deref(), Ok("debug"));
    assert!(matches!(Inherited::take(role.to_str()), Err(InheritError::TakenBefore)));
    let sockets = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count();
    assert_eq!((sockets, inherited.knell.is_some()), (1, true));
    let mut channel = Channel::<FromWorker, ToWorker>::new(inherited.control);
    let ready = Envelope { generation: inherited.generation, body: FromWorker::Ready };
    assert_eq!(channel.send(&ready, &[]).unwrap(), Sent::Sent);
}
