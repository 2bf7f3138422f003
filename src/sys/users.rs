//! Users of this machine, from /etc/passwd and /etc/group. Other sources need libraries of the host.

use std::fs;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The number.
    pub uid: u32,
    /// The number of the first group.
    pub gid: u32,
    /// The numbers of all groups.
    pub groups: Vec<u32>,
    /// The home directory.
    pub home: String,
}

impl User {
    /// The user with this name.
    pub fn named(name: &str) -> Option<User> {
        find(
            |user| user.name == name,
            &read("/etc/passwd"),
            &read("/etc/group"),
        )
    }

    /// The user with this number.
    pub fn with_id(uid: u32) -> Option<User> {
        find(|user| user.uid == uid, &read("/etc/passwd"), "")
    }
}

fn read(path: &str) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn find(is_meant: impl Fn(&User) -> bool, passwd: &str, group: &str) -> Option<User> {
    let mut user = passwd.lines().filter_map(entry).find(is_meant)?;
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [_, _, id, members, ..] = fields[..]
            && let Ok(id) = id.parse()
            && members.split(',').any(|member| member == user.name)
            && !user.groups.contains(&id)
        {
            user.groups.push(id);
        }
    }
    Some(user)
}

/// A line of /etc/passwd.
fn entry(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields[..] else {
        return None;
    };
    let gid = gid.parse().ok()?;
    Some(User {
        name: name.to_owned(),
        uid: uid.parse().ok()?,
        gid,
        groups: vec![gid],
        home: home.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001:Ann,,,:/home/ann:/bin/sh\n\
                          short:x:1\nbad:x:y:1:::\n";
    const GROUP: &str = "root:x:0:\nann:x:1001:ann\nweb:x:33:bob,ann\nother:x:44:bob,anna\nodd:x:z:ann\nshort:x:1\n";

    #[test]
    fn a_user_has_the_groups_that_name_him() {
        let named = |name: &str| find(|user| user.name == name, PASSWD, GROUP);
        let ann = named("ann").unwrap();
        assert_eq!((ann.uid, ann.gid), (1000, 1001));
        assert_eq!(
            (ann.groups, ann.home.as_str()),
            (vec![1001, 33], "/home/ann")
        );
        for name in ["", "an", "short", "bad", "bob"] {
            assert_eq!(named(name), None, "{name}");
        }
        assert_eq!(User::with_id(0).unwrap().name, "root");
    }
}
