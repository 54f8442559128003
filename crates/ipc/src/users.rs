//! Names of users and groups from `/etc/passwd` and `/etc/group`. Numbers are taken too, for hosts
//! whose accounts come from a directory service.

use std::fs;

fn id_in(file: &str, name: &str) -> Option<u32> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name)
            .then(|| fields.nth(1)?.parse().ok())
            .flatten()
    })
}

fn name_in(file: &str, id: u32) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    })
}

/// Numeric id of a user given by name or number.
pub(crate) fn user_id(user: &str) -> Option<u32> {
    user.parse().ok().or_else(|| id_in("/etc/passwd", user))
}

/// Numeric id of a group given by name or number.
pub(crate) fn group_id(group: &str) -> Option<u32> {
    group.parse().ok().or_else(|| id_in("/etc/group", group))
}

/// Name of a group, or its number as text.
pub(crate) fn group_name(id: u32) -> String {
    name_in("/etc/group", id).unwrap_or_else(|| id.to_string())
}

/// Name of a user, or its number as text.
pub(crate) fn user_name(id: u32) -> String {
    name_in("/etc/passwd", id).unwrap_or_else(|| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_by_name_and_number() {
        assert_eq!(user_id("root"), Some(0));
        assert_eq!(user_id("1234"), Some(1234));
        assert_eq!(group_id("root"), Some(0));
        assert_eq!(group_name(0), "root");
        assert_eq!(user_name(0), "root");
        assert_eq!(user_id("no such user here"), None);
    }
}
