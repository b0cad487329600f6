//! Sessions that come and go in one turn.

use crate::session::Outbox;
use tasuki_shared::id::SessionId;
use tasuki_shared::message::FromWorker;

/// A session that ended in the turn in which it was adopted, as a port scanner's, is told of once.
pub fn forget_brief_adoptions(outbox: &mut Outbox) {
    let mut ended = Vec::new();
    for (message, _) in outbox.iter() {
        if let FromWorker::Ended { session, .. } = message {
            ended.push(*session);
        }
    }
    if ended.is_empty() {
        return;
    }
    let told_of = |session: &SessionId| ended.contains(session);
    outbox.retain(
        |(message, _)| !matches!(message, FromWorker::Adopted { session, .. } if told_of(session)),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use tasuki_shared::message::EndReason;

    /// Only a session that both came and went in one turn is told of once.
    #[test]
    fn a_brief_session_is_told_of_by_its_end_alone() {
        let [brief, stays, left] = [1, 2, 3].map(|counter| SessionId { epoch: 1, counter });
        let adopted = |session| (FromWorker::Adopted { session, at_us: 0 }, Vec::new());
        let ended = |session| {
            let reason = EndReason::PeerClosed;
            (FromWorker::Ended { session, reason }, Vec::new())
        };
        let mut outbox = vec![adopted(brief), adopted(stays), ended(left), ended(brief)];
        forget_brief_adoptions(&mut outbox);
        let said: Vec<String> = outbox.iter().map(|(message, _)| format!("{message:?}")).collect();
        let expected = [adopted(stays), ended(left), ended(brief)];
        assert_eq!(said, expected.map(|(message, _)| format!("{message:?}")));
    }
}
