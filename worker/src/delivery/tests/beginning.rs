//! Streams that have just begun.

use super::client::get;
use super::flv::Broadcast;
use super::*;
use std::time::Duration;
use tasuki_shared::id::RungId;
use tasuki_shared::plan::HlsPlan;

const MOMENT: Duration = Duration::from_millis(1);

/// Players may ask as soon as a stream is live: before its packager has made a directory they wait for
/// it, and for one that will have none they are refused at once.
#[test]
fn a_live_stream_without_a_directory_is_waited_for() {
    let root = Root::new("early");
    let streams = Rc::new(Streams::default());
    let mut broadcast = Broadcast::begin(1, 1 << 20);
    broadcast.go_live(&streams);
    let known = Rc::clone(&streams);
    observed(&plan(&root.0), streams, |address, serving| {
        let root = root.0.clone();
        async move {
            let master = "/live/live/cam/index.m3u8";
            assert_eq!(get(address, master).await.status, 404);
            broadcast.plan.hls = Some(HlsPlan {
                directory: root.join("live/cam"),
                rungs: vec![RungId(1)],
                target_ms: 4_000,
                part_target_ms: 220,
                window_ms: 60_000,
            });
            known.gone(broadcast.session);
            broadcast.go_live(&known);
            let (answer, ()) = tokio::join!(get(address, master), async {
                while serving.audience().waits == 0 {
                    tokio::time::sleep(MOMENT).await;
                }
                Packager::begin(&root, &[("720p", RenditionKind::Encoded)]).parts(10);
            });
            assert_eq!(answer.status, 200);
        }
    });
}
