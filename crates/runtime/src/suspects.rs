//! Tracks the objects of which an event fails while events of other objects are accepted. Their next
//! events are sent by themselves, so that they delay no others.
//!
//! If the events of an object take long to fail, one is tried at a time, and the others wait for its
//! result. Once one was rejected, the object is blocked: one of the next events is sent now and then,
//! and the others are rejected as well. The pauses grow with the time that these tries take.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use meterline_core::Message;
use tokio::time::{Duration, Instant};

use crate::{
    chunk::{Chunk, Chunks},
    delivery::Delivery,
    evidence::Evidence,
    failure::TransientFailure,
    suspected::Suspected,
};

/// The most objects that are recorded. Each one is kept for this long after its last failed
/// event, or until its pause ends.
const MOST: usize = 4_096;
const KEPT_FOR: Duration = Duration::from_secs(3_600);
/// The pause of a blocked object is this many times the duration of its last try, but not longer than
/// the maximum. So the tries of one object take up to about a tenth of the time.
const PAUSE_FACTOR: u32 = 10;
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);
/// The pause is at least this many times the total duration of the last tries of all blocked objects,
/// up to a day. So the tries take at most half of the time, however many objects there are.
const SHARE: u32 = 2;
const LONGEST_SHARE: Duration = Duration::from_secs(86_400);

/// The pause of an event while another one of its object is tried.
const NEXT_OF_OBJECT: Duration = Duration::from_secs(5);
/// An event that is not tried for this long although it could be lets another one go first.
const LONGEST_TRIAL: Duration = Duration::from_secs(300);

/// The suspects.
#[derive(Default)]
pub(crate) struct Suspects(Mutex<HashMap<Suspected, Suspect>>);

struct Suspect {
    /// Whether its events take long to fail. If they do not, there is no time to save.
    is_slow: bool,
    /// The number of the event that is tried, and until when the others wait for it.
    trial: Option<(u64, Instant)>,
    /// Set once one of its events was rejected.
    block: Option<Block>,
    /// When one of its events failed last.
    at: Instant,
}

struct Block {
    /// How the last event that was tried failed, and how long it took.
    reason: Arc<str>,
    lasted: Duration,
    /// No further event is tried before this time.
    until: Instant,
}

/// Whether a chunk is sent.
pub(crate) enum Admission {
    /// The chunk is sent.
    Sent(Chunk),
    /// The chunk was put back.
    Waits,
    /// The chunk is rejected without being sent, for this reason.
    Denied(Chunk, String),
}

/// Whether an event of an object is sent.
#[derive(Debug, PartialEq, Eq)]
enum Permission {
    /// There is no reason against it.
    Free,
    /// It is the one that is tried after a pause.
    Admitted,
    /// Another one is being tried.
    Waits,
    /// It is not sent. The last event that was sent failed for this reason.
    Denied(Arc<str>),
}

impl Suspects {
    /// Decides whether a chunk is sent. Events of suspects are taken out of a chunk of several messages
    /// and sent by themselves: batches that failed because of the same object need not search for it one
    /// after the other.
    pub(crate) fn admit(
        &self,
        mut chunk: Chunk,
        chunks: &mut Chunks,
        longest: Duration,
    ) -> Admission {
        if chunk.len() > 1 {
            for place in self.places(&chunk.messages) {
                let mut suspect = chunk.cut_out(place);
                suspect.is_known = true;
                chunks.put_back(suspect, longest, Duration::ZERO);
            }
            return match chunk.len() {
                0 => Admission::Waits,
                _ => Admission::Sent(chunk),
            };
        }
        let Some(object) = chunk.suspected().filter(|_| !chunk.is_admitted) else {
            return Admission::Sent(chunk);
        };
        match self.permission(&object, chunk.number) {
            Permission::Free => Admission::Sent(chunk),
            Permission::Admitted => {
                chunk.is_admitted = true;
                Admission::Sent(chunk)
            }
            Permission::Waits => {
                chunks.put_back(chunk, longest, NEXT_OF_OBJECT);
                Admission::Waits
            }
            Permission::Denied(reason) => {
                let reason = format!(
                    "not sent now: the last event of this object that was sent failed while \
                     other events are accepted: {reason}"
                );
                Admission::Denied(chunk, reason)
            }
        }
    }

    /// Whether a single message that failed is the cause of the failure.
    pub(crate) fn is_at_fault(
        &self,
        chunk: &mut Chunk,
        others_succeed: bool,
        failure: &TransientFailure,
        evidence: &Evidence,
        is_crowded: bool,
    ) -> bool {
        if others_succeed && chunk.alone.since.is_some() {
            chunk.alone.failures = chunk.alone.failures.saturating_add(1);
        }
        let since = *chunk.alone.since.get_or_insert(evidence.now());
        if !others_succeed {
            return false;
        }
        let is_proven = evidence.is_at_fault(since, chunk.alone.failures, is_crowded);
        chunk.alone.needs_full_limit |= is_proven;
        let by_itself = is_proven && !failure.is_cut_short;
        let Some(object) = chunk.suspected() else {
            return by_itself;
        };
        self.add(&object, chunk.number, failure.is_slow());
        let is_at_fault = by_itself || self.is_blocked(&object);
        if is_at_fault {
            self.block(&object, &failure.reason, failure.lasted);
        }
        chunk.is_known |= failure.is_slow();
        is_at_fault
    }

    /// Notes that the event with this number, of this object, failed while others were accepted.
    fn add(&self, object: &Suspected, number: u64, is_slow: bool) {
        let at = Instant::now();
        let mut known = self.known();
        if !known.contains_key(object) && known.len() >= MOST {
            known.retain(|_, suspect| {
                at.duration_since(suspect.at) < KEPT_FOR || suspect.pauses_at(at)
            });
        }
        // A suspect beyond the limit costs the messages in its batch a bisection, and nothing else.
        if !known.contains_key(object) && known.len() >= MOST {
            return;
        }
        let suspect = known.entry(object.clone()).or_insert(Suspect {
            is_slow,
            trial: None,
            block: None,
            at,
        });
        suspect.at = at;
        suspect.is_slow |= is_slow;
        if suspect.is_slow {
            suspect.trial.get_or_insert((number, at + LONGEST_TRIAL));
        }
    }

    /// Notes that an event of this object is rejected, with the reason of its failure and its duration.
    fn block(&self, object: &Suspected, reason: &str, lasted: Duration) {
        let at = Instant::now();
        let mut known = self.known();
        if let Some(suspect) = known.get_mut(object) {
            // A try with a short time limit is less reliable evidence of how long a try takes.
            let before = suspect.block.as_ref().map(|it| it.lasted);
            suspect.block = Some(Block {
                reason: reason.into(),
                lasted: before.unwrap_or_default().max(lasted),
                until: at,
            });
            pause(&mut known, object, at);
        }
    }

    /// Whether an event of this object was rejected, and none was accepted since.
    fn is_blocked(&self, object: &Suspected) -> bool {
        let known = self.known();
        known.get(object).is_some_and(|it| it.block.is_some())
    }

    /// Notes that the event with this number is finished; others no longer wait for it.
    pub(crate) fn release(&self, object: &Suspected, number: u64) {
        if let Some(suspect) = self.known().get_mut(object) {
            suspect.trial.take_if(|(tried, _)| *tried == number);
        }
    }

    /// Notes that these events were accepted.
    pub(crate) fn clear(&self, messages: &[Message]) {
        let mut known = self.known();
        if known.is_empty() {
            return;
        }
        for object in messages.iter().filter_map(Suspected::of) {
            known.remove(&object);
        }
    }

    /// Decides whether the event with this number, of this object, is sent now. A denied one is
    /// rejected.
    fn permission(&self, object: &Suspected, number: u64) -> Permission {
        let now = Instant::now();
        let mut known = self.known();
        let Some(suspect) = known.get_mut(object) else {
            return Permission::Free;
        };
        let Some(block) = &suspect.block else {
            return match suspect.trial {
                Some((tried, until)) if tried != number && now < until => Permission::Waits,
                _ => {
                    suspect.trial = suspect.is_slow.then_some((number, now + LONGEST_TRIAL));
                    Permission::Free
                }
            };
        };
        if now < block.until {
            return Permission::Denied(Arc::clone(&block.reason));
        }
        // The next one is tried after another pause, even if this one has to wait.
        pause(&mut known, object, now);
        Permission::Admitted
    }

    /// Returns the positions of the events of suspects that take long to fail, the last one first.
    fn places(&self, messages: &[Message]) -> Vec<usize> {
        let known = self.known();
        if known.is_empty() {
            return Vec::new();
        }
        let is_known = |message: &Message| {
            let suspect = Suspected::of(message).and_then(|it| known.get(&it));
            suspect.is_some_and(|suspect| suspect.is_slow)
        };
        let places = messages.iter().enumerate().rev();
        let places = places.filter(|(_, message)| is_known(message));
        places.map(|(place, _)| place).collect()
    }

    /// Takes out the events of suspects; the others stay in order.
    pub(crate) fn take_from(&self, deliveries: &mut Vec<Delivery>) -> Vec<Delivery> {
        let known = self.known();
        if known.is_empty() {
            return Vec::new();
        }
        let is_known = |delivery: &mut Delivery| {
            Suspected::of(&delivery.message).is_some_and(|it| known.contains_key(&it))
        };
        deliveries.extract_if(.., is_known).collect()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Suspected, Suspect>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Suspect {
    fn pauses_at(&self, now: Instant) -> bool {
        let block = self.block.as_ref();
        block.is_some_and(|block| now < block.until)
    }
}

/// Begins the pause of a blocked object.
fn pause(known: &mut HashMap<Suspected, Suspect>, object: &Suspected, now: Instant) {
    let others = known.iter().filter(|(uid, suspect)| {
        // An object whose pause ended without another try sends nothing any more.
        *uid != object && suspect.pauses_at(now)
    });
    let lasted = others.filter_map(|(_, suspect)| Some(suspect.block.as_ref()?.lasted));
    let together = lasted.fold(Duration::ZERO, Duration::saturating_add);
    let block = known.get_mut(object).and_then(|it| it.block.as_mut());
    if let Some(block) = block {
        let lasted = block.lasted;
        let together = together.saturating_add(lasted);
        let alone = lasted.saturating_mul(PAUSE_FACTOR).min(LONGEST_PAUSE);
        let share = together.saturating_mul(SHARE).min(LONGEST_SHARE);
        block.until = now + alone.max(share);
    }
}

#[cfg(test)]
mod tests {
    use meterline_core::Identity;

    use super::*;

    fn block(suspects: &Suspects, object: &Suspected, seconds: u64) {
        suspects.add(object, 0, true);
        suspects.block(object, "500", Duration::from_secs(seconds));
    }

    fn denied() -> Permission {
        Permission::Denied("500".into())
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_frees_itself() {
        let suspects = Suspects::default();
        for object in 0..MOST + 10 {
            block(&suspects, &object.to_string().into(), 1);
        }
        assert!(!suspects.is_blocked(&MOST.to_string().into()));
        assert_eq!(suspects.known().len(), MOST);
        tokio::time::advance(KEPT_FOR + SHARE * Duration::from_secs(MOST as u64)).await;
        let new = Suspected::from("new");
        suspects.add(&new, 0, true);
        assert!(!suspects.is_blocked(&new));
        block(&suspects, &new, 1);
        assert!(suspects.is_blocked(&new));
        assert_eq!(suspects.known().len(), 1);
        let accepted = Message::raw("{}").with_identity(Identity {
            about: "pod a/new".into(),
            uid: "new".into(),
            start: 0,
            end: 1,
            cluster: None,
        });
        suspects.clear(&[accepted]);
        assert_eq!(suspects.permission(&new, 0), Permission::Free);
    }

    #[tokio::test(start_paused = true)]
    async fn of_one_object_one_event_is_tried_at_a_time() {
        let (suspects, a) = (Suspects::default(), "a".into());
        assert_eq!(suspects.permission(&a, 1), Permission::Free);
        suspects.add(&a, 1, true);
        suspects.add(&a, 2, true);
        assert_eq!(suspects.permission(&a, 1), Permission::Free);
        assert_eq!(suspects.permission(&a, 2), Permission::Waits);
        suspects.release(&a, 2);
        assert_eq!(suspects.permission(&a, 2), Permission::Waits);
        suspects.release(&a, 1);
        assert_eq!(suspects.permission(&a, 2), Permission::Free);
        assert_eq!(suspects.permission(&a, 1), Permission::Waits);
        // No event waits longer than this.
        tokio::time::advance(LONGEST_TRIAL).await;
        assert_eq!(suspects.permission(&a, 1), Permission::Free);
    }

    #[tokio::test(start_paused = true)]
    async fn tries_take_a_tenth_of_the_time_for_one_object_and_half_of_it_for_many() {
        for (objects, most) in [(1_u64, 0.1), (3, 0.3), (100, 0.5)] {
            let suspects = Suspects::default();
            let names: Vec<Suspected> = (0..objects).map(|it| it.to_string().into()).collect();
            let seconds = 30;
            for name in &names {
                block(&suspects, name, seconds);
            }
            let mut tried = HashMap::<_, u64>::new();
            let rounds = 600 + 120 * objects;
            for _ in 0..rounds {
                for name in &names {
                    match suspects.permission(name, 0) {
                        Permission::Admitted => {
                            *tried.entry(name).or_default() += seconds;
                            block(&suspects, name, seconds);
                            assert_eq!(suspects.permission(name, 0), denied());
                        }
                        permission => assert_eq!(permission, denied()),
                    }
                }
                tokio::time::advance(Duration::from_secs(10)).await;
            }
            let share = tried.values().sum::<u64>() as f64 / (rounds * 10) as f64;
            assert!(share <= most && share > most / 2.0, "{objects}: {share}");
            assert_eq!(tried.len() as u64, objects);
        }
    }
}
