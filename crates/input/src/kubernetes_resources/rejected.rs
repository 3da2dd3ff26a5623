//! Rejected usage, for the endpoint that lists it and has it made again.

use std::sync::{Arc, Weak};

use meterline_core::{RejectedError, RejectedItem, RejectedPage, RejectedStore};
use meterline_ledger::{Content as _, Group, GroupKey, Ledger, UnixSeconds};

use super::{
    clock::Clock, ledger::SharedLedger, messages, object::BilledObject, resource_type::ResourceType,
};

/// The rejected usage of one input, for as long as the input exists.
pub(super) struct RejectedUsage {
    pub(super) ledger: Weak<SharedLedger>,
    pub(super) clock: Clock,
    pub(super) resource_type: ResourceType,
}

impl RejectedUsage {
    fn ledger(&self) -> Result<Arc<SharedLedger>, RejectedError> {
        self.ledger.upgrade().ok_or(RejectedError::Ended)
    }
}

impl RejectedStore for RejectedUsage {
    fn page(&self, after: Option<&str>, limit: usize) -> Result<RejectedPage, RejectedError> {
        let from = after.map(Cursor::parse).transpose()?;
        let (now, resource_type) = (self.clock.seconds(), self.resource_type);
        let ledger = self.ledger()?;
        Ok(ledger.with_ledger(|it| page(it, from.as_ref(), limit, resource_type, now)))
    }

    fn retry(&self) -> Result<usize, RejectedError> {
        let ledger = self.ledger()?;
        match ledger.leader() {
            None => Ok(ledger.retry_rejected()),
            Some(leader) => Err(RejectedError::NotLeader { leader }),
        }
    }
}

/// A position in the list that additions and removals do not move: a group, and the start of the last of its
/// pieces that was shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    group: GroupKey,
    shown: UnixSeconds,
}

impl Cursor {
    pub(super) fn parse(text: &str) -> Result<Self, RejectedError> {
        let parsed = text.rsplit_once('/').and_then(|(group, shown)| {
            Some(Self {
                group: group.parse().ok()?,
                shown: shown.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| RejectedError::UnknownCursor(text.to_owned()))
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.group, self.shown)
    }
}

/// Returns a page of the rejected usage.
pub(super) fn page(
    ledger: &Ledger<BilledObject>,
    from: Option<&Cursor>,
    limit: usize,
    kind: ResourceType,
    now: UnixSeconds,
) -> RejectedPage {
    let pieces = ledger.rejected(from.map(|it| &it.group));
    let mut pieces = pieces
        .flat_map(|(key, group)| {
            let pieces = group.pieces.iter();
            pieces.map(move |(start, end)| (key, group, *start, *end))
        })
        .skip_while(|(key, _, start, _)| {
            from.is_some_and(|it| it.group == **key && *start <= it.shown)
        });
    let mut items = Vec::new();
    let mut last = None;
    for (key, group, start, end) in pieces.by_ref().take(limit) {
        items.push(item(group, (start, end), kind, now));
        last = Some((key, start));
    }
    let next = last.filter(|_| pieces.next().is_some());
    RejectedPage {
        items,
        next: next.map(|(group, shown)| {
            let group = group.clone();
            Cursor { group, shown }.to_string()
        }),
        total: ledger.rejected_pieces(),
        total_seconds: ledger.rejected_seconds(),
        not_kept: ledger.stats().rejected_not_kept,
    }
}

fn item(
    group: &Group<BilledObject>,
    (start, end): (UnixSeconds, UnixSeconds),
    kind: ResourceType,
    now: UnixSeconds,
) -> RejectedItem {
    let namespace = group.content.owner();
    RejectedItem {
        uid: Arc::clone(&group.uid),
        about: messages::about(&group.content, kind),
        namespace: (!namespace.is_empty()).then(|| namespace.into()),
        start,
        seconds: end.saturating_sub(start),
        reason: Arc::clone(&group.refusal.reason),
        cause: Arc::clone(&group.refusal.cause),
        component: Arc::clone(&group.refusal.component),
        subject: group.refusal.subject.clone(),
        first_try: group.first_try,
        last_try: group.last_try,
        tries: group.retries.saturating_add(1),
        // A retry that was requested is due at once.
        next_try: group.next_try.map(|at| at.max(now)),
    }
}

#[cfg(test)]
mod tests {
    use meterline_ledger::{Accounting, DeliveryResult, Interval, Observation};

    use super::{
        super::delivery::{
            fate,
            tests::{content, ledger, rejected},
        },
        *,
    };

    #[test]
    fn pages_show_everything_once() {
        let ledger = ledger(&vec![rejected(); 25]);
        let mut seen = Vec::new();
        let mut after: Option<Cursor> = None;
        loop {
            let page = page(&ledger, after.as_ref(), 10, ResourceType::Pod, 20);
            assert_eq!((page.total, page.total_seconds), (25, 250));
            assert!(page.items.len() <= 10);
            seen.extend(page.items.into_iter().map(|it| it.uid.to_string()));
            let Some(next) = page.next else { break };
            after = Some(Cursor::parse(&next).unwrap());
        }
        let all: Vec<_> = (0..25).map(|number| format!("uid-{number:03}")).collect();
        assert_eq!(seen, all);
        for wrong in ["", "x", "1/u", "1/u/x", "a/u/1"] {
            assert!(Cursor::parse(wrong).is_err(), "{wrong}");
        }
    }

    /// A page shows two of the six pieces of a pod. Then both of these go, and one that it did not show.
    #[test]
    fn a_page_continues_where_the_last_one_ended_although_pieces_go_in_between() {
        let mut ledger = Ledger::new(Interval::new(10).unwrap(), Accounting::Exact, 0);
        ledger.apply(Observation {
            uid: "u/1".into(),
            start: Some(0),
            end: Some(60),
            content: content("ns", "web"),
            content_since: None,
            observed_at: 0,
            in_scope_since: None,
            times: meterline_ledger::Times::default(),
        });
        let reject = |ledger: &mut Ledger<BilledObject>, tag, wanted: &[i64]| {
            let fate = fate(&rejected()).unwrap();
            let mut pieces = ledger.handed_out(tag);
            pieces.retain(|it| wanted.contains(&it.start));
            let undelivered = pieces.into_iter().map(|it| (it, fate.clone())).collect();
            ledger.settle(
                tag,
                DeliveryResult::Done {
                    at: 70,
                    undelivered,
                },
            );
        };
        while let Some(window_batch) = ledger.next(60) {
            reject(&mut ledger, window_batch.tag, &[0, 10, 20, 30, 40, 50]);
        }
        let shown = |page: &RejectedPage| page.items.iter().map(|it| it.start).collect::<Vec<_>>();
        let first = page(&ledger, None, 2, ResourceType::Pod, 70);
        assert_eq!(shown(&first), [0, 10]);
        ledger.retry_rejected();
        let again = ledger.next(60).unwrap();
        reject(&mut ledger, again.tag, &[10, 20, 40, 50]);
        let after = Cursor::parse(&first.next.unwrap()).unwrap();
        let second = page(&ledger, Some(&after), 2, ResourceType::Pod, 70);
        assert_eq!(shown(&second), [20, 40]);
        let after = Cursor::parse(&second.next.unwrap()).unwrap();
        let third = page(&ledger, Some(&after), 2, ResourceType::Pod, 70);
        assert_eq!((shown(&third), third.next), (vec![50], None));
    }

    #[test]
    fn a_store_shows_what_was_rejected_as_long_as_its_input_exists() {
        use crate::kubernetes_resources::{
            testing::{self, WATCH, observation, options},
            watch::Cluster,
        };

        let options = options(Cluster::default());
        let shared = testing::ledger(&options, 0);
        shared.observe(observation("a", 1, Some(9)));
        shared.synced(WATCH, true);
        shared.alive(WATCH, 10);
        let tag = shared.next(10).0.unwrap().batch.tag;
        shared.settle(tag, |ledger| {
            let fate = fate(&rejected()).unwrap();
            let undelivered = ledger.handed_out(tag).into_iter();
            DeliveryResult::Done {
                at: 10,
                undelivered: undelivered.map(|it| (it, fate.clone())).collect(),
            }
        });
        let store = RejectedUsage {
            ledger: Arc::downgrade(&shared),
            clock: options.clock.clone(),
            resource_type: options.resource_type,
        };
        let page = RejectedStore::page(&store, None, 10).unwrap();
        assert_eq!((page.total, page.total_seconds), (1, 8));
        assert_eq!(&*page.items[0].about, "pod n/a");
        assert!(RejectedStore::page(&store, Some("x"), 10).is_err());
        assert_eq!(store.retry(), Ok(1));
        drop(shared);
        let ended = Err(RejectedError::Ended);
        assert_eq!(store.retry(), ended);
    }
}
