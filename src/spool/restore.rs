//! Messages that come back from outside with what was known of them: see `letter`.

use super::draft::{Draft, Waiting};
use super::record::{PriorStatus, StoredContent};
use super::{Accepted, Placement, RecipientStatus, Spool, SpoolError};

impl Spool {
    /// Makes a message durable together with what became of its recipients so far, in one record.
    /// `in_doubt` names recipients to whom a delivery had begun and not ended. Errors as with
    /// [`Spool::store`].
    ///
    /// The id must not be known to any spool of the relay, nor be given out again by one: it is one
    /// that this spool gave out, or one that is older than now.
    pub async fn restore(
        &self,
        mut draft: Draft,
        accepted: Accepted,
        statuses: &[(u32, RecipientStatus)],
        in_doubt: &[u32],
    ) -> Result<Placement, SpoolError> {
        let core = &self.handle.core;
        let extents = draft.finish_chunks().await?;
        core.wait_for_room().await?;
        let pieces = draft.hand_over();
        let content = match extents {
            Some(extents) => StoredContent::Chunks(draft.id(), extents),
            None => StoredContent::Inline(draft.bytes()),
        };
        let so_far = PriorStatus { statuses: statuses.to_vec(), in_flight: in_doubt.to_vec() };
        Waiting::append(core, &accepted, &content, &so_far, pieces)?.stored().await
    }
}
