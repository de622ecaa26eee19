//! Names kept once and numbered: route keys with what is known of their site, the classes of
//! messages (priority and tenant), and the reasons why recipients wait. All live as long as
//! something refers to them; route keys with a known site a little longer, so that the next message
//! need not ask again.

use super::SiteId;
use super::slab::{Linked, Links, List, Slab};
use crate::message::{Demands, IdentityId, Reason, RouteKey, Status, Timestamp};
use hashbrown::HashTable;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

/// Route keys that nothing waits for, kept for their known site; the oldest goes first.
const IDLE_ROUTES_MAX: usize = 4096;

/// Different reasons kept in full, about 250 bytes each, at most 1 KB. Servers that put a number of
/// their own into every reply would fill the memory with them; of further ones only the stage and
/// the code are kept, of which there are at most ten thousand.
pub(super) const REASONS_MAX: usize = 1 << 14;
/// The same with those of recipients that have ended, which their reports are to quote: what waits
/// does not take their places.
pub(super) const REASONS_ENDED_MAX: usize = 2 * REASONS_MAX;
/// The words of a reason that was not kept in full.
pub(super) const NOT_KEPT: &str = "its words were not kept: see its last event";

/// A hash of text from outside. The seed comes first, so that who does not know it cannot choose
/// names that collide.
fn hash(seed: u64, number: u8, text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(seed);
    hasher.write_u8(number);
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// A route key and its site. Its links: to be asked for, or idle.
#[derive(Default)]
pub(super) struct Route {
    links: Links,
    key: RouteKey,
    /// Recipients of it that have not ended, and one more while a lookup is in flight.
    references: u32,
    /// Its recipients in [`super::entry::State::Routing`].
    pub routing: List,
    /// A lookup is wanted or in flight.
    pub asked: bool,
    /// The site last found, and until when that holds.
    pub site: Option<(SiteId, Timestamp)>,
}

/// A [`RouteKey`] that need not be kept.
#[derive(Clone, Copy)]
pub(super) struct BorrowedKey<'a> {
    pub domain: &'a str,
    pub identity: IdentityId,
    pub demands: Demands,
}

impl BorrowedKey<'_> {
    fn of(key: &RouteKey) -> BorrowedKey<'_> {
        BorrowedKey { domain: &key.domain, identity: key.identity, demands: key.demands }
    }

    fn is(&self, key: &RouteKey) -> bool {
        *self.domain == *key.domain && self.identity == key.identity && self.demands == key.demands
    }

    fn hash(&self, seed: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(seed);
        self.identity.hash(&mut hasher);
        self.demands.hash(&mut hasher);
        hasher.write(self.domain.as_bytes());
        hasher.finish()
    }
}

impl Linked for Route {
    fn links(&self) -> &Links {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

pub(super) struct Routes {
    table: Slab<Route>,
    index: HashTable<u32>,
    to_ask: List,
    idle: List,
    idle_count: usize,
    seed: u64,
}

impl Routes {
    pub fn new(seed: u64) -> Routes {
        Routes {
            table: Slab::new(),
            index: HashTable::new(),
            to_ask: List::default(),
            idle: List::default(),
            idle_count: 0,
            seed,
        }
    }

    /// The number of `key`, with one reference more.
    pub fn refer(&mut self, key: BorrowedKey<'_>) -> u32 {
        let hash = key.hash(self.seed);
        let found = self.index.find(hash, |&number| key.is(&self.table[number].key));
        if let Some(&number) = found {
            if self.table[number].references == 0 {
                self.idle.unlink(&mut self.table, number);
                self.idle_count -= 1;
            }
            self.table[number].references += 1;
            return number;
        }
        let BorrowedKey { domain, identity, demands } = key;
        let key = RouteKey { domain: domain.into(), identity, demands };
        let number = self.table.insert(Route { key, references: 1, ..Route::default() });
        self.index_insert(hash, number);
        number
    }

    /// One reference less. Without any the key is idle, and forgotten when too many are.
    pub fn release(&mut self, number: u32) {
        let route = &mut self.table[number];
        route.references -= 1;
        if route.references > 0 {
            return;
        }
        if route.site.is_none() {
            self.forget(number);
            return;
        }
        self.idle.push_back(&mut self.table, number, 0);
        self.idle_count += 1;
        if self.idle_count > IDLE_ROUTES_MAX
            && let Some(oldest) = self.idle.pop_front(&mut self.table)
        {
            self.idle_count -= 1;
            self.forget(oldest);
        }
    }

    /// A lookup is wanted, unless one is wanted or under way already.
    pub fn ask(&mut self, number: u32) {
        let route = &mut self.table[number];
        if !route.asked {
            route.asked = true;
            route.references += 1;
            self.to_ask.push_back(&mut self.table, number, 0);
        }
    }

    /// The next lookup to begin.
    pub fn next_to_ask(&mut self) -> Option<u32> {
        self.to_ask.pop_front(&mut self.table)
    }

    pub fn has_to_ask(&self) -> bool {
        !self.to_ask.is_empty()
    }

    /// The lookup has ended. Gives up its reference: the key may be gone after it when nothing
    /// else refers to it.
    pub fn answered(&mut self, number: u32) {
        if !std::mem::take(&mut self.table[number].asked) {
            return;
        }
        // Answered before it was asked: then it need not be.
        if self.table.is_linked(number) {
            self.to_ask.unlink(&mut self.table, number);
        }
        self.release(number);
    }

    pub fn key(&self, number: u32) -> Option<&RouteKey> {
        self.table.get(number).map(|route| &route.key)
    }

    /// The domain of a key; empty when it is unknown.
    pub fn domain(&self, number: u32) -> &str {
        self.key(number).map_or("", |key| &key.domain)
    }

    pub fn get(&self, number: u32) -> Option<&Route> {
        self.table.get(number)
    }

    pub fn get_mut(&mut self, number: u32) -> &mut Route {
        &mut self.table[number]
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    fn forget(&mut self, number: u32) {
        let route = self.table.remove(number);
        let hash = BorrowedKey::of(&route.key).hash(self.seed);
        if let Ok(found) = self.index.find_entry(hash, |&other| other == number) {
            found.remove();
        }
    }

    fn index_insert(&mut self, at: u64, number: u32) {
        let (table, seed) = (&self.table, self.seed);
        self.index
            .insert_unique(at, number, |&other| BorrowedKey::of(&table[other].key).hash(seed));
    }
}

/// A priority and a tenant. Its links are used by the table only.
#[derive(Default)]
pub(super) struct Class {
    links: Links,
    pub tenant: Box<str>,
    pub priority: i8,
    references: u32,
}

impl Linked for Class {
    fn links(&self) -> &Links {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

pub(super) struct Classes {
    table: Slab<Class>,
    index: HashTable<u32>,
    seed: u64,
}

impl Classes {
    pub fn new(seed: u64) -> Classes {
        Classes { table: Slab::new(), index: HashTable::new(), seed }
    }

    /// The number of the class, with one reference more.
    pub fn refer(&mut self, priority: i8, tenant: &str) -> u32 {
        let at = hash(self.seed, priority as u8, tenant);
        let found = self.index.find(at, |&number| {
            self.table[number].priority == priority && *self.table[number].tenant == *tenant
        });
        if let Some(&number) = found {
            self.table[number].references += 1;
            return number;
        }
        let class = Class { tenant: tenant.into(), priority, references: 1, ..Class::default() };
        let number = self.table.insert(class);
        let (table, seed) = (&self.table, self.seed);
        self.index.insert_unique(at, number, |&other| {
            hash(seed, table[other].priority as u8, &table[other].tenant)
        });
        number
    }

    /// One reference less; without any it is forgotten.
    pub fn release(&mut self, number: u32) {
        self.table[number].references -= 1;
        if self.table[number].references > 0 {
            return;
        }
        let class = self.table.remove(number);
        let at = hash(self.seed, class.priority as u8, &class.tenant);
        if let Ok(found) = self.index.find_entry(at, |&other| other == number) {
            found.remove();
        }
    }

    pub fn get(&self, number: u32) -> &Class {
        &self.table[number]
    }
}

/// A reason. Its links are used by the table only.
#[derive(Default)]
struct Kept {
    links: Links,
    /// `None` only in a free place of the table.
    reason: Option<Rc<Reason>>,
    references: u32,
}

impl Linked for Kept {
    fn links(&self) -> &Links {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

pub(super) struct Reasons {
    table: Slab<Kept>,
    index: HashTable<u32>,
    seed: u64,
}

impl Reasons {
    pub fn new(seed: u64) -> Reasons {
        Reasons { table: Slab::new(), index: HashTable::new(), seed }
    }

    /// The number of `reason`, with one reference more. It is kept in full while fewer than `most`
    /// are.
    pub fn refer(&mut self, reason: &Rc<Reason>, most: usize) -> u32 {
        if let Some(number) = self.find(reason) {
            self.table[number].references += 1;
            return number;
        }
        if self.table.len() < most {
            return self.insert(Rc::clone(reason));
        }
        let (stage, code) = (reason.stage, reason.code);
        let short = Reason { code, ..Reason::ours(stage, Status(4, 0, 0), NOT_KEPT) };
        match self.find(&short) {
            Some(number) => {
                self.table[number].references += 1;
                number
            }
            None => self.insert(Rc::new(short)),
        }
    }

    /// One reference less; without any it is forgotten.
    pub fn release(&mut self, number: u32) {
        self.table[number].references -= 1;
        if self.table[number].references > 0 {
            return;
        }
        if let Some(reason) = self.table.remove(number).reason {
            let at = self.hash(&reason);
            if let Ok(found) = self.index.find_entry(at, |&other| other == number) {
                found.remove();
            }
        }
    }

    pub fn get(&self, number: u32) -> Option<&Rc<Reason>> {
        self.table.get(number)?.reason.as_ref()
    }

    fn find(&self, reason: &Reason) -> Option<u32> {
        let same = |&number: &u32| self.get(number).is_some_and(|known| **known == *reason);
        self.index.find(self.hash(reason), same).copied()
    }

    fn insert(&mut self, reason: Rc<Reason>) -> u32 {
        let at = self.hash(&reason);
        let kept = Kept { reason: Some(reason), references: 1, ..Kept::default() };
        let number = self.table.insert(kept);
        let (table, seed) = (&self.table, self.seed);
        self.index.insert_unique(at, number, |&other| {
            table[other].reason.as_ref().map_or(0, |reason| hash_of(seed, reason))
        });
        number
    }

    fn hash(&self, reason: &Reason) -> u64 {
        hash_of(self.seed, reason)
    }
}

fn hash_of(seed: u64, reason: &Reason) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(seed);
    reason.hash(&mut hasher);
    hasher.finish()
}
