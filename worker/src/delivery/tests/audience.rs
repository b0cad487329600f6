//! What a server counts of whom it serves.

use super::client::{get, get_with};
use super::{ENCODED, Packager, Root, observed, plan};
use std::rc::Rc;
use std::time::Duration;
use tasuki_shared::message::{Audience, DeliveryPlan};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MOMENT: Duration = Duration::from_millis(1);

/// Every answer is counted by its class, and every byte that came to a viewer, heads and all.
#[test]
fn answers_and_bytes_are_counted_as_they_are_sent() {
    let root = Root::new("counts");
    Packager::begin(&root.0, &ENCODED).parts(25);
    observed(&plan(&root.0), Rc::default(), |address, serving| async move {
        assert_eq!(serving.audience(), Audience::default());
        let segment = "/live/live/cam/720p/7.m4s";
        let whole = get(address, segment).await;
        let tag = whole.header("etag").unwrap().to_owned();
        let known = get_with(address, segment, &[("If-None-Match", &tag)]).await;
        let range = get_with(address, segment, &[("Range", "bytes=0-4")]).await;
        let nothing = get(address, "/live/live/nobody/index.m3u8").await;
        let answers = [whole, known, range, nothing];
        assert_eq!(answers.each_ref().map(|it| it.status), [200, 304, 206, 404]);
        let mut received: u64 = answers.iter().map(|it| it.received).sum();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("HEAD {segment} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        received += u64::try_from(stream.read_to_end(&mut answer).await.unwrap()).unwrap();
        let served = serving.audience().served;
        assert_eq!(served.answers, [0, 3, 1, 1, 0]);
        assert_eq!(served.sent_bytes, received);
        while serving.audience().connections > 0 {
            tokio::time::sleep(MOMENT).await;
        }
    });
}

/// A reload is told of while it waits, and not once it is answered or its client has left.
#[test]
fn waits_are_those_of_now() {
    let root = Root::new("waits");
    let mut packager = Packager::begin(&root.0, &ENCODED);
    packager.parts(12);
    observed(&plan(&root.0), Rc::default(), |address, serving| async move {
        let ahead = "/live/live/cam/720p/index.m3u8?_HLS_msn=8&_HLS_part=3";
        let waits = |count| {
            let serving = Rc::clone(&serving);
            async move {
                while serving.audience().waits != count {
                    tokio::time::sleep(MOMENT).await;
                }
            }
        };
        let mut leaves = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {ahead} HTTP/1.1\r\nHost: x\r\n\r\n");
        leaves.write_all(request.as_bytes()).await.unwrap();
        waits(1).await;
        assert_eq!(serving.audience().connections, 1);
        drop(leaves);
        waits(0).await;
        let (answer, ()) = tokio::join!(get(address, ahead), async {
            waits(1).await;
            packager.parts(2);
        });
        assert_eq!(answer.status, 200);
        let audience = serving.audience();
        assert_eq!((audience.waits, audience.served.answers), (0, [0, 1, 0, 0, 0]));
    });
}

/// Both reasons to close a connection at once have counters of their own.
#[test]
fn refused_connections_are_counted_by_reason() {
    let root = Root::new("refused");
    for (connections_max, of_one, expected) in [(2, 1, (0, 1)), (1, 2, (1, 0))] {
        let plan =
            DeliveryPlan { connections_max, connections_per_address_max: of_one, ..plan(&root.0) };
        observed(&plan, Rc::default(), |address, serving| async move {
            let _held = TcpStream::connect(address).await.unwrap();
            while serving.audience().connections == 0 {
                tokio::time::sleep(MOMENT).await;
            }
            let mut more = TcpStream::connect(address).await.unwrap();
            let mut nothing = Vec::new();
            // Closed, or reset: it said nothing.
            let _either = more.read_to_end(&mut nothing).await;
            assert!(nothing.is_empty());
            let served = serving.audience().served;
            assert_eq!((served.refused_full, served.refused_crowded), expected);
        });
    }
}
