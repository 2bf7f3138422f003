//! What epoll tells of, as the number that it keeps for us.

/// What epoll tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Signal,
    Listener(usize),
    Conn(u64),
    Slot(u64),
    Stdout(u64),
    Stderr(u64),
    Control(u64),
}

impl From<Token> for u64 {
    fn from(token: Token) -> u64 {
        let (kind, number) = match token {
            Token::Signal => (0, 0),
            Token::Listener(number) => (1, number as u64),
            Token::Conn(number) => (2, number),
            Token::Slot(number) => (3, number),
            Token::Stdout(number) => (4, number),
            Token::Stderr(number) => (5, number),
            Token::Control(number) => (6, number),
        };
        kind << 56 | number
    }
}

impl From<u64> for Token {
    fn from(data: u64) -> Token {
        let number = data & ((1 << 56) - 1);
        match data >> 56 {
            0 => Token::Signal,
            1 => Token::Listener(number as usize),
            2 => Token::Conn(number),
            3 => Token::Slot(number),
            4 => Token::Stdout(number),
            5 => Token::Stderr(number),
            _ => Token::Control(number),
        }
    }
}
