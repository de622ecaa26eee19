//! What is ready, by site: in a band for each priority, in it a lane for each tenant.
//!
//! The bands share by turns: of eight transactions seven go to the highest band, the eighth to the
//! lower ones in rotation, so that urgent mail goes first and bulk mail still moves. Inside a band
//! the tenants take turns, one transaction each. Which recipient is next, and taking it, costs the
//! same however many wait.

use super::SiteId;
use super::entry::{Recipient, State};
use super::slab::{Linked, Links, List, Slab};
use crate::message::{Reason, Timestamp};
use hashbrown::{HashMap, HashTable};
use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

/// One transaction of so many goes to a band below the highest.
const TURNS: u32 = 8;

/// Parked sites without mail are looked through when there are more than this, and twice as many as
/// the last time.
const PARKED_SWEEP_MIN: usize = 1024;

/// The place of a recipient that is out without a site (its route had none).
pub(super) const NO_SITE: u32 = u32::MAX;

/// Why a site is not tried now. Explains; does not stop.
#[derive(Clone, Debug, PartialEq)]
pub struct Parked {
    /// Since when.
    pub since: Timestamp,
    /// When it will be tried again.
    pub until: Timestamp,
    /// The reply or trouble that is the cause.
    pub reason: Arc<Reason>,
}

/// The recipients of one class (priority and tenant) that are ready for one site; never empty. Its
/// links are those of its band.
#[derive(Default)]
struct Lane {
    links: Links,
    site: u32,
    class: u32,
    recipients: List,
}

impl Linked for Lane {
    fn links(&self) -> &Links {
        &self.links
    }
    fn links_mut(&mut self) -> &mut Links {
        &mut self.links
    }
}

struct Band {
    priority: i8,
    lanes: List,
}

#[derive(Default)]
pub(super) struct Site {
    pub ready: usize,
    pub out: usize,
    /// Recipients that ended there, or while they waited for it, and are not reported yet.
    pub ending: usize,
    pub parked: Option<Parked>,
    /// The shard knows that there is work: no further offer until a `take` found nothing.
    pub offered: bool,
    /// An offer of it stands in the queue of offers.
    offer_queued: bool,
    turn: u32,
    /// Highest priority first; none is empty.
    bands: Vec<Band>,
}

impl Site {
    fn is_idle(&self) -> bool {
        self.ready == 0 && self.out == 0 && self.ending == 0 && !self.offered && !self.offer_queued
    }

    fn band_of_turn(&mut self) -> usize {
        let lower = self.bands.len().saturating_sub(1) as u32;
        if lower == 0 {
            return 0;
        }
        self.turn = self.turn.wrapping_add(1);
        if self.turn.is_multiple_of(TURNS) { 1 + (self.turn / TURNS % lower) as usize } else { 0 }
    }
}

/// Spreads numbers that follow each other over a hash table.
pub(super) fn spread(number: u64) -> u64 {
    let product = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    product ^ product >> 32
}

#[derive(Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = spread(self.0 ^ u64::from(*byte));
        }
    }
    fn write_u32(&mut self, number: u32) {
        self.0 = spread(u64::from(number));
    }
}

pub(super) struct Sites {
    sites: HashMap<u32, Site, BuildHasherDefault<NumberHasher>>,
    lanes: Slab<Lane>,
    lane_index: HashTable<u32>,
    /// At most one entry for each site.
    offers: VecDeque<u32>,
    sweep_at: usize,
}

impl Sites {
    pub fn new() -> Sites {
        Sites {
            sites: HashMap::default(),
            lanes: Slab::new(),
            lane_index: HashTable::new(),
            offers: VecDeque::new(),
            sweep_at: PARKED_SWEEP_MIN,
        }
    }

    /// Puts a recipient that is in no list at the end of its lane.
    pub fn push(
        &mut self,
        table: &mut Slab<Recipient>,
        number: u32,
        site_number: u32,
        class: u32,
        priority: i8,
    ) {
        let site = self.sites.entry(site_number).or_default();
        site.ready += 1;
        if !site.offered {
            site.offered = true;
            if !std::mem::replace(&mut site.offer_queued, true) {
                self.offers.push_back(site_number);
            }
        }
        let at = lane_hash(site_number, class);
        let lanes = &mut self.lanes;
        let found = self
            .lane_index
            .find(at, |&lane| lanes[lane].site == site_number && lanes[lane].class == class);
        let lane = match found {
            Some(&lane) => lane,
            None => {
                let lane = lanes.insert(Lane { site: site_number, class, ..Lane::default() });
                let position = match site.bands.iter().position(|band| band.priority <= priority) {
                    Some(at) if site.bands[at].priority == priority => at,
                    at => {
                        let at = at.unwrap_or(site.bands.len());
                        site.bands.insert(at, Band { priority, lanes: List::default() });
                        at
                    }
                };
                site.bands[position].lanes.push_back(lanes, lane, 0);
                self.lane_index.insert_unique(at, lane, |&other| {
                    lane_hash(lanes[other].site, lanes[other].class)
                });
                lane
            }
        };
        let recipient = &mut table[number];
        recipient.set_state(State::Ready);
        recipient.place = lane;
        lanes[lane].recipients.push_back(table, number, 0);
    }

    /// Takes a ready recipient out of its lane; `priority` is that of its message. The lane and the
    /// band go when they are empty.
    pub fn remove(&mut self, table: &mut Slab<Recipient>, number: u32, priority: i8) {
        let lane_number = table[number].place;
        let lane = &mut self.lanes[lane_number];
        lane.recipients.unlink(table, number);
        let (is_empty, site_number, class) = (lane.recipients.is_empty(), lane.site, lane.class);
        let Some(site) = self.sites.get_mut(&site_number) else { return };
        site.ready -= 1;
        if !is_empty {
            return;
        }
        if let Some(at) = site.bands.iter().position(|band| band.priority == priority) {
            site.bands[at].lanes.unlink(&mut self.lanes, lane_number);
            if site.bands[at].lanes.is_empty() {
                site.bands.remove(at);
            }
        }
        self.lanes.remove(lane_number);
        let at = lane_hash(site_number, class);
        if let Ok(found) = self.lane_index.find_entry(at, |&other| other == lane_number) {
            found.remove();
        }
    }

    /// Which recipient is next at a site. `None`: none; the next to become ready is offered.
    pub fn next(&mut self, site_number: u32) -> Option<u32> {
        let site = self.sites.get_mut(&site_number)?;
        if site.ready == 0 {
            site.offered = false;
            self.forget_if_idle(site_number);
            return None;
        }
        let at = site.band_of_turn();
        let band = site.bands.get_mut(at)?;
        let lane = band.lanes.pop_front(&mut self.lanes)?;
        band.lanes.push_back(&mut self.lanes, lane, 0);
        self.lanes[lane].recipients.first()
    }

    /// Any recipient that is ready for a site.
    pub fn any(&self, site_number: u32) -> Option<u32> {
        let lane = self.sites.get(&site_number)?.bands.first()?.lanes.first()?;
        self.lanes[lane].recipients.first()
    }

    /// The site of a ready recipient's lane.
    pub fn site_of(&self, lane: u32) -> u32 {
        self.lanes[lane].site
    }

    /// The next site to offer to the shard. One whose work has gone meanwhile is left out.
    pub fn next_offer(&mut self) -> Option<SiteId> {
        while let Some(site_number) = self.offers.pop_front() {
            let Some(site) = self.sites.get_mut(&site_number) else { continue };
            site.offer_queued = false;
            if site.ready > 0 {
                return Some(SiteId(site_number));
            }
            site.offered = false;
            self.forget_if_idle(site_number);
        }
        None
    }

    pub fn has_offers(&self) -> bool {
        !self.offers.is_empty()
    }

    pub fn went_out(&mut self, site_number: u32) {
        if let Some(site) = self.sites.get_mut(&site_number) {
            site.out += 1;
        }
    }

    pub fn came_back(&mut self, site_number: u32) {
        if let Some(site) = self.sites.get_mut(&site_number) {
            site.out = site.out.saturating_sub(1);
            self.forget_if_idle(site_number);
        }
    }

    /// A recipient of the site has ended and is not reported yet: the site keeps its number.
    pub fn began_to_end(&mut self, site_number: u32) {
        if site_number != NO_SITE {
            self.sites.entry(site_number).or_default().ending += 1;
        }
    }

    /// One is reported.
    pub fn ended(&mut self, site_number: u32) {
        if let Some(site) = self.sites.get_mut(&site_number) {
            site.ending = site.ending.saturating_sub(1);
            self.forget_if_idle(site_number);
        }
    }

    pub fn park(&mut self, site_number: u32, parked: Parked) {
        let now = parked.since;
        self.sites.entry(site_number).or_default().parked = Some(parked);
        if self.sites.len() > self.sweep_at {
            self.sites.retain(|_, site| {
                !site.is_idle() || site.parked.as_ref().is_some_and(|parked| parked.until > now)
            });
            self.sweep_at = PARKED_SWEEP_MIN.max(2 * self.sites.len());
        }
    }

    pub fn unpark(&mut self, site_number: u32) {
        if let Some(site) = self.sites.get_mut(&site_number) {
            site.parked = None;
            self.forget_if_idle(site_number);
        }
    }

    pub fn get(&self, site_number: u32) -> Option<&Site> {
        self.sites.get(&site_number)
    }

    pub fn iter(&self) -> impl Iterator<Item = (SiteId, &Site)> {
        self.sites.iter().map(|(number, site)| (SiteId(*number), site))
    }

    fn forget_if_idle(&mut self, site_number: u32) {
        let idle = |site: &Site| site.is_idle() && site.parked.is_none();
        if self.sites.get(&site_number).is_some_and(idle) {
            self.sites.remove(&site_number);
        }
    }
}

fn lane_hash(site: u32, class: u32) -> u64 {
    spread(u64::from(site) << 32 | u64::from(class))
}
