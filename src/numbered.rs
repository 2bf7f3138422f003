//! `Numbered`: a map for keys that are assigned in ascending order, such as request numbers. The latest are looked up
//! most.
//!
//! A sorted deque rather than a tree: most of these maps have a handful of entries and dozens of lookups per request.

use std::collections::VecDeque;

/// A map whose keys are mostly added in ascending order. Adding the highest key and looking it up take constant time. Box
/// large values, as removing an entry moves its neighbours.
#[derive(Clone, Debug)]
pub struct Numbered<K, T>(VecDeque<(K, T)>);

impl<K, T> Default for Numbered<K, T> {
    fn default() -> Numbered<K, T> {
        Numbered(VecDeque::new())
    }
}

impl<K: Copy + Ord, T> Numbered<K, T> {
    /// Adds a value, replacing the one with this number.
    pub fn insert(&mut self, number: K, value: T) {
        match self.find(number) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (number, value)),
        }
    }

    /// The value with this number.
    pub fn get(&self, number: K) -> Option<&T> {
        let at = self.find(number).ok()?;
        Some(&self.0[at].1)
    }

    /// The value with this number, mutable.
    pub fn get_mut(&mut self, number: K) -> Option<&mut T> {
        let at = self.find(number).ok()?;
        Some(&mut self.0[at].1)
    }

    /// Removes and returns the value with this number.
    pub fn remove(&mut self, number: K) -> Option<T> {
        let at = self.find(number).ok()?;
        self.0.remove(at).map(|(_, value)| value)
    }

    /// Removes all values.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All numbers and values, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        self.0.iter().map(|(number, value)| (*number, value))
    }

    /// All numbers and mutable values, in ascending order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (K, &mut T)> {
        self.0.iter_mut().map(|(number, value)| (*number, value))
    }

    /// All values, in ascending order of their numbers.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }

    /// All values, mutable, in ascending order of their numbers.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    /// The index of this number, or where to insert it.
    fn find(&self, number: K) -> Result<usize, usize> {
        match self.0.back() {
            Some((last, _)) if *last == number => Ok(self.0.len() - 1),
            Some((last, _)) if *last > number => self.0.binary_search_by_key(&number, |e| e.0),
            _ => Err(self.0.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_behaves_like_a_map(steps in prop::collection::vec((0..3u8, 0..12u64, any::<u8>()), 0..80)) {
            let (mut ours, mut tree) = (Numbered::default(), BTreeMap::new());
            for (step, number, value) in steps {
                match step {
                    0 => prop_assert_eq!(ours.remove(number), tree.remove(&number)),
                    1 => prop_assert_eq!(ours.get_mut(number), tree.get_mut(&number)),
                    _ => {
                        ours.insert(number, value);
                        tree.insert(number, value);
                    }
                }
                prop_assert_eq!(ours.get(number), tree.get(&number));
                prop_assert!(ours.iter().eq(tree.iter().map(|(number, value)| (*number, value))));
            }
        }
    }
}
