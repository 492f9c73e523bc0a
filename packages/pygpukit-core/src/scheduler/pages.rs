//! Pages of the cache: who uses them, which are free, and which are kept for what is in them.

use super::prefix::{ContentId, PrefixIndex};
use super::request::Token;

/// The number of a page.
pub(super) type PageId = u32;

const NONE: PageId = PageId::MAX;

/// All pages of one model's cache.
pub(super) struct PagePool {
    quota: u32,
    /// Idle pages that are kept at most.
    max_idle: u32,
    /// Those that have ever been used.
    pages: Vec<Page>,
    /// Those with nothing worth keeping, the one to take next last.
    free: Vec<PageId>,
    /// Those that nobody uses, kept for their content: a list, the longest unused first.
    oldest_idle: PageId,
    newest_idle: PageId,
    idle: u32,
    prefixes: PrefixIndex,
}

#[derive(Clone, Copy)]
struct Page {
    users: u32,
    /// Neighbours in the list of idle pages.
    older: PageId,
    newer: PageId,
}

impl PagePool {
    pub(super) fn new(quota: u32, max_idle: u32) -> PagePool {
        PagePool {
            quota,
            max_idle,
            pages: Vec::new(),
            free: Vec::new(),
            oldest_idle: NONE,
            newest_idle: NONE,
            idle: 0,
            prefixes: PrefixIndex::new(),
        }
    }

    /// Pages that there can be.
    pub(super) fn quota(&self) -> u32 {
        self.quota
    }

    /// Allows `pages` pages, or as many as have ever been taken.
    pub(super) fn provide(&mut self, pages: u32) {
        self.quota = pages.max(self.pages.len() as u32);
    }

    /// Pages that somebody uses.
    pub(super) fn in_use(&self) -> u32 {
        self.pages.len() as u32 - self.free.len() as u32 - self.idle
    }

    /// Pages that nobody uses but that are kept for their content.
    pub(super) fn idle(&self) -> u32 {
        self.idle
    }

    /// Pages that can be taken.
    pub(super) fn available(&self) -> u32 {
        self.quota - self.in_use()
    }

    /// A page for one user: a free one, else a new one, else the longest idle.
    pub(super) fn take(&mut self) -> Option<PageId> {
        let page = match self.free.pop() {
            Some(page) => page,
            None if (self.pages.len() as u32) < self.quota => {
                self.pages.push(Page { users: 0, older: NONE, newer: NONE });
                self.pages.len() as PageId - 1
            }
            None => self.forget_oldest()?,
        };
        self.pages[page as usize].users = 1;
        Some(page)
    }

    /// One more user of a page that `find` has found.
    pub(super) fn share(&mut self, page: PageId) {
        if self.pages[page as usize].users == 0 {
            self.unlink(page);
        }
        self.pages[page as usize].users += 1;
    }

    /// How many use `page`.
    pub(super) fn users(&self, page: PageId) -> u32 {
        self.pages[page as usize].users
    }

    /// One user fewer of each page of a sequence. The last go first, so that a page becomes idle after
    /// those that continue it, and stays longer.
    pub(super) fn release(&mut self, pages: &[PageId]) {
        for &page in pages.iter().rev() {
            let users = &mut self.pages[page as usize].users;
            *users -= 1;
            if *users > 0 {
                continue;
            }
            if self.prefixes.contains(page) {
                self.link(page);
            } else {
                self.free.push(page);
            }
        }
        while self.idle > self.max_idle {
            let page = self.forget_oldest().expect("some are idle");
            self.free.push(page);
        }
    }

    /// The page that holds `tokens` behind `before`.
    pub(super) fn find(&self, before: ContentId, tokens: &[Token]) -> Option<(PageId, ContentId)> {
        self.prefixes.find(before, tokens)
    }

    /// Offers a page in use to others that hold `tokens` behind `before`.
    pub(super) fn offer(&mut self, page: PageId, before: ContentId, tokens: &[Token]) -> ContentId {
        self.prefixes.insert(page, before, tokens)
    }

    fn forget_oldest(&mut self) -> Option<PageId> {
        let page = self.oldest_idle;
        if page == NONE {
            return None;
        }
        self.unlink(page);
        self.prefixes.remove(page);
        Some(page)
    }

    fn link(&mut self, page: PageId) {
        let older = self.newest_idle;
        let Page { older: before, newer: after, .. } = &mut self.pages[page as usize];
        (*before, *after) = (older, NONE);
        match older {
            NONE => self.oldest_idle = page,
            older => self.pages[older as usize].newer = page,
        }
        self.newest_idle = page;
        self.idle += 1;
    }

    fn unlink(&mut self, page: PageId) {
        let Page { older, newer, .. } = self.pages[page as usize];
        match older {
            NONE => self.oldest_idle = newer,
            older => self.pages[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest_idle = older,
            newer => self.pages[newer as usize].older = older,
        }
        self.idle -= 1;
    }
}
