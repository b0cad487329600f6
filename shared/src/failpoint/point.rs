//! The points, by name. Each is hit in exactly one place of the code; a test of `tidy` looks.

/// What the code at a point can do besides going on, dying, stopping and being late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    Nothing,
    /// What follows fails by its own error path.
    Failure,
    /// What follows is left out.
    Omission,
}

macro_rules! points {
    ($($name:ident $offer:ident $about:literal)+) => {
        /// A place in the code where a fault can be ordered.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Point {
            $(#[doc = $about] $name,)+
        }

        impl Point {
            /// Every point, in the order of the board's lines.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// Where it is.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self {
                    $(Self::$name => $about,)+
                }
            }

            #[must_use]
            pub const fn offer(self) -> Offer {
                match self {
                    $(Self::$name => Offer::$offer,)+
                }
            }
        }
    };
}

points! {
    SendingPrepare Nothing "supervisor: before Prepare is queued"
    SentPrepare Nothing "supervisor: after Prepare was sent, in the same turn"
    SendingRelease Nothing "supervisor: before Release is queued"
    SentRelease Nothing "supervisor: after Release was sent, in the same turn"
    SendingLease Nothing "supervisor: before Adopt is queued"
    SentLease Nothing "supervisor: after Adopt was sent, in the same turn"
    SendingTakeOver Nothing "supervisor: before TakeOver is queued"
    HeardPrepared Nothing "supervisor: Prepared has come"
    HeardReleased Nothing "supervisor: Released has come"
    HeardAdopted Nothing "supervisor: Adopted has come"

    FrameWithFds Failure "control channel: a frame with fds was received; fails as with a full table"

    Handshake Nothing "wire: the handshake is answered and not committed"
    Connect Nothing "wire: a command before publish is answered and not committed"
    PublishAsked Nothing "wire: publish was parsed and nobody asked yet"
    Received Nothing "wire: bytes are out of the kernel and counted nowhere"
    MidChunk Nothing "wire: a part of a payload is in its place and not counted"
    PartialMessage Nothing "wire: a wake-up ends inside a message"
    BetweenMessages Nothing "wire: a message is complete and not committed"

    CommitStaged Nothing "commit: everything is staged, the record not flipped"
    CommitFlipped Nothing "commit: the record is flipped, readers not told"

    PushWriting Nothing "push: a batch is committed and not written"
    PushWrote Nothing "push: bytes of a batch are with the kernel, the next not composed"
    PushHeard Nothing "push: the origin's bytes are out of the kernel and not parsed"
    RecordWriting Nothing "recorder: before a write to a file"
    RecordWrote Nothing "recorder: after a write to a file"
    HlsWriting Nothing "packager: before a file is written"
    HlsWritten Nothing "packager: a file is written and has no name yet"
    HlsNamed Nothing "packager: after a file has its name"

    AdoptMapped Nothing "adoption: the memory is mapped, the owner word not taken"
    AdoptTaken Nothing "adoption: the owner word is ours"
    AdoptReconciled Nothing "adoption: the kernel's counters are read"
    AdoptLoaded Nothing "adoption: the record is loaded and everything goes on from it"
    SeamFrame Nothing "adoption: the first own frame is about to be put into the logs"

    PrepareMapped Nothing "preparation: the session is mapped, nothing follows yet"
    PrepareFollowing Nothing "preparation: the pipeline follows"
    PrepareReady Nothing "preparation: before Prepared"
    FollowerPacket Nothing "preparation: the follower's media thread looks for a packet"
    TakeOverWoken Nothing "take-over: told that the session is released, the word not taken"

    ReleaseOrdered Omission "release: Release has come; left out, it is lost"
    ReleaseCut Nothing "release: the cut is found, nothing committed"
    ReleaseCommitted Nothing "release: the last commit is made, the owner word still ours"
    ReleaseStored Nothing "release: the owner word is stored, the bell not rung"
    ReleaseRang Nothing "release: the bell is rung, Released not said"

    MediaPacket Nothing "pipeline: the media thread takes a packet"
    DialerConnects Nothing "dialer: before it connects"
    DialerConnected Nothing "dialer: connected, and nobody told"

    CommittedMessage Omission "control: left out, a committed message is not sent by the next owner"
    SeamIdr Omission "control: left out, the first frame of a next owner is no IDR"
    SoundPreRoll Omission "control: left out, the next owner's sound has no history"
    InboundCount Omission "control: left out, an adopter believes the record of what was received"
    OutboundCount Omission "control: left out, an adopter believes the record of what was sent"
    NewestRecord Omission "control: left out, an adopter takes the other slot for the commit record"
    EncodedFrames Omission "control: left out, an adopter takes what was encoded for not encoded"
    CommittedHeads Omission "control: left out, an adopter takes what was not committed of a log"
}
