//! As much of HTTP/1.1 (RFC 9112) as etcd's gateway needs: one request after another on a connection, answers whose bodies have a
//! length, come in chunks or end with the connection.
//!
//! What answers is not trusted: nothing that it sends panics, and each part has a limit.

use std::io;

use oncewire_driver::BoxStream;
use smol::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes of an answer's head, and of what may follow its last chunk.
const HEAD_LEN_MAX: usize = 16 << 10;
/// Bytes of the line before a chunk.
const CHUNK_LINE_LEN_MAX: usize = 256;
/// Bytes that are read at once.
const READ_LEN: usize = 16 << 10;

/// A connection on which requests are sent one after another.
pub(crate) struct HttpStream {
    stream: BoxStream,
    /// What was read, from `at` on not yet used.
    buf: Vec<u8>,
    at: usize,
}

/// What is ahead of an answer's body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    body: Framing,
    /// Another request may follow on this connection.
    keeps: bool,
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// After so many more bytes.
    Length(u64),
    /// So many more bytes of a chunk, and the line's end after it.
    Chunk(u64),
    /// The line before the next chunk comes next.
    ChunkLine,
    /// With the connection.
    Close,
    /// It has ended.
    Done,
}

impl HttpStream {
    pub(crate) fn new(stream: BoxStream) -> HttpStream {
        HttpStream { stream, buf: Vec::new(), at: 0 }
    }

    /// Sends a request with a body of JSON.
    pub(crate) async fn post(
        &mut self,
        host: &str,
        path: &str,
        token: Option<&str>,
        body: &str,
    ) -> io::Result<()> {
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        );
        if let Some(token) = token {
            request.push_str(&format!("Authorization: {token}\r\n"));
        }
        request.push_str("\r\n");
        request.push_str(body);
        self.stream.write_all(request.as_bytes()).await?;
        self.stream.flush().await
    }

    /// The head of the answer.
    pub(crate) async fn head(&mut self) -> io::Result<Head> {
        loop {
            let text = self.block(HEAD_LEN_MAX).await?;
            let head = parse_head(&text)?;
            // Those that announce another answer.
            if !(100..200).contains(&head.status) {
                return Ok(head);
            }
        }
    }

    /// The next piece of the body; `None` at its end.
    pub(crate) async fn piece(&mut self, head: &mut Head) -> io::Result<Option<Vec<u8>>> {
        loop {
            match head.body {
                Framing::Done => return Ok(None),
                Framing::Length(0) => head.body = Framing::Done,
                Framing::Length(left) => {
                    let piece = self.some(left).await?;
                    head.body = Framing::Length(left - piece.len() as u64);
                    return Ok(Some(piece));
                }
                Framing::Close => {
                    if self.at == self.buf.len() && self.fill().await? == 0 {
                        head.body = Framing::Done;
                        continue;
                    }
                    return self.some(u64::MAX).await.map(Some);
                }
                Framing::ChunkLine => {
                    let line = self.line(CHUNK_LINE_LEN_MAX).await?;
                    head.body = match parse_chunk_len(&line)? {
                        0 => {
                            self.trailer().await?;
                            Framing::Done
                        }
                        len => Framing::Chunk(len),
                    };
                }
                Framing::Chunk(0) => {
                    if !self.line(2).await?.is_empty() {
                        return Err(invalid("a chunk is longer than announced"));
                    }
                    head.body = Framing::ChunkLine;
                }
                Framing::Chunk(left) => {
                    let piece = self.some(left).await?;
                    head.body = Framing::Chunk(left - piece.len() as u64);
                    return Ok(Some(piece));
                }
            }
        }
    }

    /// The whole body, of at most so many bytes.
    pub(crate) async fn body(&mut self, head: &mut Head, len_max: usize) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece(head).await? {
            if body.len() + piece.len() > len_max {
                return Err(invalid("the answer is too long"));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// Whether another request may follow this answer.
    pub(crate) fn is_reusable(&self, head: &Head) -> bool {
        head.keeps && head.body == Framing::Done && self.at == self.buf.len()
    }

    /// Reads more; 0 at the end. Loses nothing when it is dropped.
    async fn fill(&mut self) -> io::Result<usize> {
        self.buf.drain(..std::mem::take(&mut self.at));
        let mut read = vec![0; READ_LEN];
        let len = self.stream.read(&mut read).await?;
        self.buf.extend_from_slice(&read[..len]);
        Ok(len)
    }

    async fn fill_some(&mut self) -> io::Result<()> {
        match self.fill().await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Some bytes, at least one and at most so many.
    async fn some(&mut self, len_max: u64) -> io::Result<Vec<u8>> {
        if self.at == self.buf.len() {
            self.fill_some().await?;
        }
        let rest = &self.buf[self.at..];
        let len = rest.len().min(usize::try_from(len_max).unwrap_or(usize::MAX));
        let piece = rest[..len].to_vec();
        self.at += len;
        Ok(piece)
    }

    /// What is ahead of this, which is taken too.
    async fn until(&mut self, end: &[u8], len_max: usize) -> io::Result<String> {
        let mut looked_at = 0;
        loop {
            let rest = &self.buf[self.at..];
            if let Some(len) = rest[looked_at..].windows(end.len()).position(|part| part == end) {
                let len = looked_at + len;
                if len > len_max {
                    break;
                }
                let text = str::from_utf8(&rest[..len]).map(str::to_owned);
                self.at += len + end.len();
                return text.map_err(|_| invalid("it is no text"));
            }
            if rest.len() > len_max + end.len() {
                break;
            }
            looked_at = (rest.len() + 1).saturating_sub(end.len());
            self.fill_some().await?;
        }
        Err(invalid("a line or a head is too long"))
    }

    async fn line(&mut self, len_max: usize) -> io::Result<String> {
        self.until(b"\r\n", len_max).await
    }

    /// Lines up to an empty one.
    async fn block(&mut self, len_max: usize) -> io::Result<String> {
        self.until(b"\r\n\r\n", len_max).await
    }

    /// What follows the last chunk: fields of no interest, and an empty line.
    async fn trailer(&mut self) -> io::Result<()> {
        let mut len = 0;
        loop {
            let line = self.line(HEAD_LEN_MAX).await?;
            len += line.len();
            if line.is_empty() {
                return Ok(());
            }
            if len > HEAD_LEN_MAX {
                return Err(invalid("what follows the last chunk is too long"));
            }
        }
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no answer in HTTP/1.1: {message}"))
}

fn parse_head(text: &str) -> io::Result<Head> {
    let mut lines = text.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let Some(rest) = status_line.strip_prefix("HTTP/1.1 ") else {
        return Err(invalid("another first line"));
    };
    let status = rest.get(..3).and_then(|digits| digits.parse::<u16>().ok());
    let status = status.filter(|status| (100..600).contains(status));
    let status = status.ok_or_else(|| invalid("no status"))?;
    let (mut length, mut chunked, mut keeps) = (None, false, true);
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| invalid("no field"))?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            let len = value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse::<u64>());
            match len {
                Some(Ok(len)) if length.is_none_or(|before| before == len) => length = Some(len),
                _ => return Err(invalid("a length that is none")),
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case("chunked") {
                return Err(invalid("another encoding than chunks"));
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close") {
            keeps = false;
        }
    }
    let body = match (chunked, length) {
        _ if status < 200 || status == 204 || status == 304 => Framing::Done,
        (true, None) => Framing::ChunkLine,
        (false, Some(len)) => Framing::Length(len),
        (false, None) => Framing::Close,
        // Two readers may see two ends.
        (true, Some(_)) => return Err(invalid("chunks and a length")),
    };
    Ok(Head { status, body, keeps: keeps && body != Framing::Close })
}

fn parse_chunk_len(line: &str) -> io::Result<u64> {
    let digits = line.split(';').next().unwrap_or_default().trim_end();
    let is_hex = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let len = is_hex.then(|| u64::from_str_radix(digits, 16));
    len.and_then(Result::ok).ok_or_else(|| invalid("a chunk without a length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status and the body of an answer.
    fn answer(bytes: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        smol::block_on(async {
            let cursor = smol::io::Cursor::new(bytes.to_vec());
            let mut http = HttpStream::new(Box::new(cursor));
            let mut head = http.head().await?;
            let body = http.body(&mut head, 100).await?;
            Ok((head.status, body))
        })
    }

    #[test]
    fn bodies_end_where_they_say() {
        let answers: [&[u8]; 5] = [
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcrest",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n2;x=y\r\nbc\r\n0\r\n\r\n",
            b"HTTP/1.1 200 \r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\nGrpc: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nabc",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        ];
        for bytes in answers {
            let (status, body) = answer(bytes).unwrap();
            assert_eq!((status, &body[..]), (200, &b"abc"[..]));
            if bytes.windows(3).all(|part| part != b"OK\r\n\r\nabc") {
                for len in 0..bytes.len() - 4 {
                    let _an_error_or_less = answer(&bytes[..len]);
                }
            }
        }
    }

    #[test]
    fn what_is_no_answer_or_too_long_is_an_error() {
        let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n{}", "a".repeat(101));
        let head = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(HEAD_LEN_MAX));
        let chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answers = [
            "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(),
            "HTTP/1.1 9 OK\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_owned(),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(),
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab".to_owned(),
            format!("{chunk}fffffffff\r\n"),
            format!("{chunk}+1\r\na\r\n0\r\n\r\n"),
            format!("{chunk}1\r\nab\r\n0\r\n\r\n"),
            format!("{chunk}\r\n"),
            format!("{chunk}0\r\n{}", "A: b\r\n".repeat(HEAD_LEN_MAX)),
            long,
            head,
        ];
        for text in answers {
            assert!(answer(text.as_bytes()).is_err(), "{}", &text[..text.len().min(80)]);
        }
    }

    #[test]
    fn no_bytes_panic() {
        let sound = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        for at in 0..sound.len() {
            for byte in 0..=255 {
                let mut bytes = sound.to_vec();
                bytes[at] = byte;
                let _any = answer(&bytes);
            }
        }
    }
}
