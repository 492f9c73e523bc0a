//! Finding pages by what is in them.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::pages::PageId;
use super::request::Token;

/// What a page holds, given everything before it. Each content has one for all time, so what continued
/// a page that is gone is never found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ContentId(u64);

impl ContentId {
    /// What precedes the first page of the sequences of a variant.
    pub(super) fn start(variant: u32) -> ContentId {
        ContentId(variant.into())
    }
}

/// A page's tokens, and what is before them.
struct Content {
    id: ContentId,
    before: ContentId,
    tokens: Box<[Token]>,
    hash: u64,
}

/// The pages with known contents.
pub(super) struct PrefixIndex {
    /// By page.
    contents: Vec<Option<Content>>,
    table: HashTable<PageId>,
    hasher: RandomState,
    next: u64,
}

impl PrefixIndex {
    pub(super) fn new() -> PrefixIndex {
        PrefixIndex {
            contents: Vec::new(),
            table: HashTable::new(),
            hasher: RandomState::new(),
            next: u64::from(u32::MAX) + 1,
        }
    }

    /// The page that holds `tokens` behind `before`.
    pub(super) fn find(&self, before: ContentId, tokens: &[Token]) -> Option<(PageId, ContentId)> {
        self.find_hashed(self.hasher.hash_one((before, tokens)), before, tokens)
    }

    fn find_hashed(
        &self,
        hash: u64,
        before: ContentId,
        tokens: &[Token],
    ) -> Option<(PageId, ContentId)> {
        let page = *self.table.find(hash, |&page| self.content(page).is(before, tokens))?;
        Some((page, self.content(page).id))
    }

    /// Notes what `page` holds, unless another page holds the same. Returns the content.
    pub(super) fn insert(
        &mut self,
        page: PageId,
        before: ContentId,
        tokens: &[Token],
    ) -> ContentId {
        let hash = self.hasher.hash_one((before, tokens));
        if let Some((_, id)) = self.find_hashed(hash, before, tokens) {
            return id;
        }
        let id = ContentId(self.next);
        self.next += 1;
        let index = page as usize;
        if self.contents.len() <= index {
            self.contents.resize_with(index + 1, || None);
        }
        self.contents[index] = Some(Content { id, before, tokens: tokens.into(), hash });
        let contents = &self.contents;
        self.table.insert_unique(hash, page, |&page| {
            contents[page as usize].as_ref().expect("in the table").hash
        });
        id
    }

    /// Whether it is known what `page` holds.
    pub(super) fn contains(&self, page: PageId) -> bool {
        self.contents.get(page as usize).is_some_and(Option::is_some)
    }

    /// Forgets what `page` holds.
    pub(super) fn remove(&mut self, page: PageId) {
        let content = self.contents.get_mut(page as usize).and_then(Option::take);
        if let Some(Content { hash, .. }) = content
            && let Ok(entry) = self.table.find_entry(hash, |&other| other == page)
        {
            entry.remove();
        }
    }

    fn content(&self, page: PageId) -> &Content {
        self.contents[page as usize].as_ref().expect("pages in the table have contents")
    }
}

impl Content {
    fn is(&self, before: ContentId, tokens: &[Token]) -> bool {
        self.before == before && *self.tokens == *tokens
    }
}
