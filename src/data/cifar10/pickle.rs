//! Just enough of Python's pickle format to read the canonical CIFAR-10 batches: a dictionary with
//! a list of labels and a two-dimensional NumPy array of bytes.
//!
//! Understood are the opcodes that Python 2 and 3 write for such a dictionary at protocols 2 to 4.
//! Nothing is ever executed: a call in the stream becomes an inert [`Value::Call`]. Values refer to the bytes of the
//! file and, by number, to each other, so that a pickle of any depth takes memory in proportion to its operations,
//! which are bounded, and nothing here recurses.
//! Format: `Lib/pickletools.py` of CPython.

use std::collections::HashMap;

/// Operations that a pickle may have; a canonical batch has some 50,000.
const MAX_OPERATIONS: usize = 1_000_000;

/// What a pickle says; copies of a number share what it stands for, as pickle's memo requires.
#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Int(i64),
    /// A byte string, or a Python 2 string.
    Bytes(&'a [u8]),
    /// A text string.
    Text(&'a str),
    /// Bytes as Python 3 writes them at protocol 2: a text of their values.
    Latin1(&'a str),
    /// A list, tuple or dictionary (keys and values in turn) by its place in [`Machine::groups`].
    List(usize),
    Tuple(usize),
    Dict(usize),
    /// Module and name of a function or class.
    Global(&'a str, &'a str),
    /// A call by its place in [`Machine::calls`].
    Call(usize),
    /// `None` or a number of no interest.
    Nothing,
}

/// A call of something, and the state given to its result.
#[derive(Debug, Clone, Copy)]
struct Call<'a> {
    args: Value<'a>,
    state: Value<'a>,
}

/// Labels and pixels of one batch file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PickledBatch {
    /// Labels: (N).
    pub(super) labels: Vec<i64>,
    /// Pixels: (N, `row_len`), row-major.
    pub(super) data: Vec<u8>,
    /// Bytes of one row.
    pub(super) row_len: usize,
}

/// Reads the entries `labels` and `data` of a pickled dictionary.
///
/// # Errors
/// One sentence on what is wrong.
pub(super) fn read_batch(pickle: &[u8]) -> Result<PickledBatch, String> {
    let mut machine = Machine::new(pickle);
    let Value::Dict(entries) = machine.run()? else {
        return Err("holds no dictionary".into());
    };
    let entry = |name: &str| {
        let found = machine.groups[entries].chunks_exact(2).rfind(|pair| is_text(pair[0], name));
        found.map(|pair| pair[1]).ok_or_else(|| format!("has no entry `{name}`"))
    };
    let Value::List(labels) = entry("labels")? else {
        return Err("`labels` is not a list".into());
    };
    let labels = machine.groups[labels]
        .iter()
        .map(|label| match label {
            Value::Int(label) => Ok(*label),
            _ => Err("`labels` holds something other than integers".to_string()),
        })
        .collect::<Result<_, _>>()?;
    let (data, row_len) =
        machine.byte_matrix(entry("data")?).ok_or("`data` is not a C-ordered (N, D) array of u8")?;
    Ok(PickledBatch { labels, data, row_len })
}

/// Whether `value` is the string `text`, of either kind.
fn is_text(value: Value, text: &str) -> bool {
    match value {
        Value::Bytes(bytes) => bytes == text.as_bytes(),
        Value::Text(found) | Value::Latin1(found) => found == text,
        _ => false,
    }
}

/// The stack machine that a pickle is a program for.
struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    /// Contents of lists, tuples and dictionaries.
    groups: Vec<Vec<Value<'a>>>,
    calls: Vec<Call<'a>>,
}

impl<'a> Machine<'a> {
    fn new(input: &'a [u8]) -> Self {
        let (stack, marks, memo) = (Vec::new(), Vec::new(), HashMap::new());
        Self { input, at: 0, stack, marks, memo, groups: Vec::new(), calls: Vec::new() }
    }

    /// The bytes and the row length of a two-dimensional NumPy array. Its state is the tuple (version,
    /// shape, dtype, whether in Fortran order, bytes).
    fn byte_matrix(&self, value: Value) -> Option<(Vec<u8>, usize)> {
        let Value::Call(call) = value else { return None };
        let [_, shape, Value::Call(dtype), Value::Int(0), bytes] =
            *self.tuple_items(self.calls[call].state)?
        else {
            return None;
        };
        let [Value::Int(n_rows), Value::Int(row_len)] = *self.tuple_items(shape)? else { return None };
        let (n_rows, row_len) = (usize::try_from(n_rows).ok()?, usize::try_from(row_len).ok()?);
        let is_u8 = is_text(*self.tuple_items(self.calls[dtype].args)?.first()?, "u1");
        let bytes = match bytes {
            Value::Bytes(bytes) => bytes.to_vec(),
            Value::Latin1(text) => {
                text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<_>>()?
            }
            _ => return None,
        };
        (is_u8 && n_rows.checked_mul(row_len)? == bytes.len()).then_some((bytes, row_len))
    }

    fn tuple_items(&self, value: Value) -> Option<&[Value<'a>]> {
        if let Value::Tuple(idx) = value { Some(&self.groups[idx]) } else { None }
    }

    fn run(&mut self) -> Result<Value<'a>, String> {
        if self.input.first() != Some(&0x80) {
            return Err("is no pickle of protocol 2, 3 or 4".into());
        }
        for _ in 0..MAX_OPERATIONS {
            let at = self.at;
            let opcode = self.take(1)?[0];
            match opcode {
                b'.' => return self.pop(),
                0x80 => self.protocol()?,                  // PROTO
                0x95 => drop(self.take(8)?),               // FRAME
                b'(' => self.marks.push(self.stack.len()), // MARK
                b'N' => self.stack.push(Value::Nothing),   // NONE
                0x88 | 0x89 => self.stack.push(Value::Int((opcode == 0x88).into())), // NEWTRUE, NEWFALSE
                b'K' => self.integer::<1>()?,              // BININT1
                b'M' => self.integer::<2>()?,              // BININT2
                b'J' => self.integer::<4>()?,              // BININT
                0x8a => self.long()?,                      // LONG1
                b'G' => {
                    self.take(8)?; // BINFLOAT
                    self.stack.push(Value::Nothing);
                }
                b'U' | b'C' => self.bytes::<1>()?, // SHORT_BINSTRING, SHORT_BINBYTES
                b'T' | b'B' => self.bytes::<4>()?, // BINSTRING, BINBYTES
                0x8e => self.bytes::<8>()?,        // BINBYTES8
                0x8c => self.text::<1>()?,         // SHORT_BINUNICODE
                b'X' => self.text::<4>()?,         // BINUNICODE
                b'q' => self.put_at::<1>()?,       // BINPUT
                b'r' => self.put_at::<4>()?,       // LONG_BINPUT
                0x94 => self.put(self.memo.len() as u32)?, // MEMOIZE
                b'h' => self.get::<1>()?,          // BINGET
                b'j' => self.get::<4>()?,          // LONG_BINGET
                b']' => self.group(Value::List, Vec::new()), // EMPTY_LIST
                b'}' => self.group(Value::Dict, Vec::new()), // EMPTY_DICT
                b')' => self.tuple(0)?,            // EMPTY_TUPLE
                0x85..=0x87 => self.tuple(usize::from(opcode - 0x84))?, // TUPLE1, 2, 3
                b't' => {
                    let items = self.pop_to_mark()?; // TUPLE
                    self.group(Value::Tuple, items);
                }
                b'a' => {
                    let item = self.pop()?; // APPEND
                    self.extend_list(&[item])?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?; // APPENDS
                    self.extend_list(&items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?); // SETITEM
                    self.extend_dict(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?; // SETITEMS
                    self.extend_dict(&items)?;
                }
                b'c' => {
                    let global = Value::Global(self.line()?, self.line()?); // GLOBAL
                    self.stack.push(global);
                }
                0x93 => self.stack_global()?, // STACK_GLOBAL
                b'R' => self.reduce()?,       // REDUCE
                b'b' => self.build()?,        // BUILD
                _ => return Err(format!("has an unexpected opcode {opcode:#04x} at byte {at}")),
            }
        }
        Err(format!("has more than {MAX_OPERATIONS} operations"))
    }

    fn protocol(&mut self) -> Result<(), String> {
        match self.take(1)?[0] {
            2..=4 => Ok(()),
            other => Err(format!(
                "is of pickle protocol {other}, and 2 to 4 are read; write it anew with pickle.dump(batch, file, protocol=4)"
            )),
        }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.input.len());
        let end = end.ok_or("is truncated")?;
        let taken = &self.input[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// A little-endian number of `N` bytes.
    fn number<const N: usize>(&mut self) -> Result<u64, String> {
        let mut bytes = [0; 8];
        bytes[..N].copy_from_slice(self.take(N)?);
        Ok(u64::from_le_bytes(bytes))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let n = self.input[self.at..].iter().position(|&byte| byte == b'\n').ok_or("is truncated")?;
        let line = std::str::from_utf8(self.take(n)?).map_err(|_| "holds text that is not UTF-8")?;
        self.at += 1;
        Ok(line)
    }

    fn pop(&mut self) -> Result<Value<'a>, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("takes from an empty stack".into());
        }
        self.stack.pop().ok_or_else(|| "takes from an empty stack".into())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>, String> {
        let mark = self.marks.pop().ok_or("closes a group that it did not open")?;
        Ok(self.stack.split_off(mark))
    }

    /// One- and two-byte integers are unsigned, four-byte ones signed.
    fn integer<const N: usize>(&mut self) -> Result<(), String> {
        let number = self.number::<N>()?;
        let value = if N == 4 { i64::from(number as u32 as i32) } else { number as i64 };
        self.stack.push(Value::Int(value));
        Ok(())
    }

    /// A two's complement number of up to eight bytes.
    fn long(&mut self) -> Result<(), String> {
        let n = self.number::<1>()? as usize;
        let bytes = self.take(n)?;
        let mut value = if bytes.last().is_some_and(|byte| byte >> 7 == 1) { -1i64 } else { 0 };
        for byte in bytes.iter().rev() {
            value = value << 8 | i64::from(*byte);
        }
        self.stack.push(if n <= 8 { Value::Int(value) } else { Value::Nothing });
        Ok(())
    }

    /// So many bytes as a number of `N` bytes says.
    fn counted<const N: usize>(&mut self) -> Result<&'a [u8], String> {
        let n = self.number::<N>()?;
        self.take(usize::try_from(n).map_err(|_| "is truncated")?)
    }

    fn bytes<const N: usize>(&mut self) -> Result<(), String> {
        let bytes = self.counted::<N>()?;
        self.stack.push(Value::Bytes(bytes));
        Ok(())
    }

    fn text<const N: usize>(&mut self) -> Result<(), String> {
        let text = std::str::from_utf8(self.counted::<N>()?).map_err(|_| "holds text that is not UTF-8")?;
        self.stack.push(Value::Text(text));
        Ok(())
    }

    fn put(&mut self, slot: u32) -> Result<(), String> {
        let top = self.stack.last().ok_or("takes from an empty stack")?;
        self.memo.insert(slot, *top);
        Ok(())
    }

    fn put_at<const N: usize>(&mut self) -> Result<(), String> {
        let slot = self.number::<N>()? as u32;
        self.put(slot)
    }

    fn get<const N: usize>(&mut self) -> Result<(), String> {
        let slot = self.number::<N>()? as u32;
        let value = self.memo.get(&slot).ok_or("refers to a value that it did not define")?;
        self.stack.push(*value);
        Ok(())
    }

    /// Pushes a list, tuple or dictionary of `items`.
    fn group(&mut self, kind: fn(usize) -> Value<'a>, items: Vec<Value<'a>>) {
        self.stack.push(kind(self.groups.len()));
        self.groups.push(items);
    }

    fn tuple(&mut self, n: usize) -> Result<(), String> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.group(Value::Tuple, items);
        Ok(())
    }

    fn extend_list(&mut self, items: &[Value<'a>]) -> Result<(), String> {
        let Some(Value::List(list)) = self.stack.last() else {
            return Err("appends to something other than a list".into());
        };
        self.groups[*list].extend(items);
        Ok(())
    }

    /// `items` holds keys and values in turn.
    fn extend_dict(&mut self, items: &[Value<'a>]) -> Result<(), String> {
        let Some(Value::Dict(dict)) = self.stack.last() else {
            return Err("sets an entry of something other than a dictionary".into());
        };
        if !items.len().is_multiple_of(2) {
            return Err("gives a dictionary a key without a value".into());
        }
        self.groups[*dict].extend(items);
        Ok(())
    }

    fn stack_global(&mut self) -> Result<(), String> {
        let (Value::Text(name), Value::Text(module)) = (self.pop()?, self.pop()?) else {
            return Err("names a global by something other than text".into());
        };
        self.stack.push(Value::Global(module, name));
        Ok(())
    }

    /// Python 3 writes bytes at protocol 2 as `_codecs.encode(text, 'latin1')`, which is recognized
    /// here; every other call stays a description.
    fn reduce(&mut self) -> Result<(), String> {
        let (args, callable) = (self.pop()?, self.pop()?);
        if let Value::Global("_codecs", "encode") = callable
            && let Some(Value::Text(text)) = self.tuple_items(args).and_then(<[_]>::first)
        {
            let text = Value::Latin1(text);
            self.stack.push(text);
        } else {
            self.stack.push(Value::Call(self.calls.len()));
            self.calls.push(Call { args, state: Value::Nothing });
        }
        Ok(())
    }

    fn build(&mut self) -> Result<(), String> {
        let state = self.pop()?;
        let Some(Value::Call(call)) = self.stack.last() else {
            return Err("gives a state to something other than an object".into());
        };
        self.calls[*call].state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `pickle.dumps({b'batch_label': b'x', b'labels': [3, 9], b'data': numpy.array([[130, ...,
    /// 141], [142, ..., 153]], numpy.uint8)}, protocol)` by Python and NumPy.
    const PROTOCOL_2: &[u8] = include_bytes!("testdata/py3_protocol2.pickle");
    const PROTOCOL_4: &[u8] = include_bytes!("testdata/py3_protocol4.pickle");
    /// The same by Python 2.7 (`cPickle`, protocol 2), which wrote the canonical files.
    const PYTHON_2: &[u8] = include_bytes!("testdata/py2_protocol2.pickle");

    /// Oracle: the values that were pickled.
    #[test]
    fn reads_what_python_writes() {
        for pickle in [PROTOCOL_2, PROTOCOL_4, PYTHON_2] {
            let batch = read_batch(pickle).unwrap();
            let expected = PickledBatch { labels: vec![3, 9], data: (130..154).collect(), row_len: 12 };
            assert_eq!(batch, expected);
        }
    }

    #[test]
    fn truncation_and_damage_are_errors_and_never_panics() {
        for pickle in [PROTOCOL_2, PROTOCOL_4, PYTHON_2] {
            for n in 0..pickle.len() {
                assert!(read_batch(&pickle[..n]).is_err(), "{n} bytes of {}", pickle.len());
            }
            let mut damaged = pickle.to_vec();
            for at in 0..pickle.len() {
                for value in [0, b'.', b'(', b'e', b'u', b'R', b'b', 0xff] {
                    damaged[at] = value;
                    drop(read_batch(&damaged));
                }
                damaged[at] = pickle[at];
            }
        }
    }
}
