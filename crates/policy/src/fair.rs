//! Fairness among clients, by tokens: who has the most waiting waits, is refused and is given up first.
//!
//! Three rules, each without effect while one client is alone or all are equal:
//! the order of service is that of virtual clocks (L. Zhang 1990, "VirtualClock: a new traffic control algorithm
//! for packet switching networks"), since a client's request is due the later the more of its own work waited
//! when it came ([`crate::due_ns`]); admission asks when a request would be done if no client got more than its
//! own ([`Share::ahead`]); and under overload a request counts as so many times its work as its client has times
//! its share ([`Share::times`]).

use std::cmp::{max, min};

/// What one client has waiting, beside the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Tokens of this client that wait.
    pub own_tokens: u64,
    /// Tokens of all clients that wait.
    pub all_tokens: u64,
    /// Clients with tokens that wait, this one included whether it has any or not.
    pub clients: u64,
}

impl Share {
    /// Tokens that are served before this client's next `tokens`, when each other client gets as many as this
    /// one and no more than it has.
    #[must_use]
    pub fn ahead(&self, tokens: u64) -> u64 {
        let others = max(self.clients, 1) - 1;
        let fair = self
            .own_tokens
            .saturating_add(tokens)
            .saturating_mul(others)
            .saturating_add(self.own_tokens);
        min(fair, self.all_tokens)
    }

    /// How many times its fair share this client has, rounded down; at least 1.
    #[must_use]
    pub fn times(&self) -> u64 {
        let times = self.own_tokens.saturating_mul(max(self.clients, 1)) / max(self.all_tokens, 1);
        max(times, 1)
    }

    /// Whether this client has its fair part of all that waits, once it has `tokens` more.
    #[must_use]
    pub fn is_used_up(&self, tokens: u64) -> bool {
        let fair = self.all_tokens.saturating_add(tokens) / max(self.clients, 1);
        self.own_tokens.saturating_add(tokens) >= fair
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(own_tokens: u64, all_tokens: u64, clients: u64) -> Share {
        Share {
            own_tokens,
            all_tokens,
            clients,
        }
    }

    #[test]
    fn who_is_alone_waits_for_all_and_has_its_share() {
        let alone = share(500, 500, 1);
        assert_eq!(alone.ahead(10), 500);
        assert_eq!(alone.times(), 1);
        assert!(alone.is_used_up(10));
    }

    #[test]
    fn a_newcomer_waits_for_as_much_of_each_other_as_it_brings() {
        let newcomer = share(0, 900, 4);
        assert_eq!(newcomer.ahead(20), 60);
        // The others have less than that.
        assert_eq!(share(0, 30, 4).ahead(20), 30);
        assert!(newcomer.times() == 1 && !newcomer.is_used_up(20));
    }

    #[test]
    fn who_floods_has_many_times_its_share() {
        assert_eq!(share(900, 1_000, 10).times(), 9);
        assert!(share(900, 1_000, 10).is_used_up(1));
        assert_eq!(share(100, 1_000, 10).times(), 1);
        assert_eq!(share(u64::MAX, u64::MAX, u64::MAX).times(), 1);
    }
}
