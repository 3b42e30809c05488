//! Just enough of Python's pickle format to read the canonical CIFAR-10 batches: a dictionary with
//! a list of labels and a two-dimensional NumPy array of bytes.
//!
//! Understood are the opcodes that Python 2 and 3 write for such a dictionary at protocols 2 to 4.
//! Nothing is ever executed: a call in the stream becomes an inert [`Value::Call`].
//! Format: `Lib/pickletools.py` of CPython.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// What a pickle says; clones share their content, as pickle's memo requires.
#[derive(Debug, Clone)]
enum Value {
    Int(i64),
    /// A byte string, or a Python 2 string.
    Bytes(Rc<[u8]>),
    /// A text string, in UTF-8.
    Text(Rc<str>),
    List(Rc<RefCell<Vec<Value>>>),
    Tuple(Rc<Vec<Value>>),
    Dict(Rc<RefCell<Vec<(Value, Value)>>>),
    /// `module name` of a function or class.
    Global(Rc<str>),
    Call(Rc<Call>),
    /// `None` or a number of no interest.
    Nothing,
}

/// A call of something, and the state given to its result.
#[derive(Debug)]
struct Call {
    args: Value,
    state: RefCell<Option<Value>>,
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
    let Value::Dict(entries) = load(pickle)? else {
        return Err("holds no dictionary".into());
    };
    let entries = entries.borrow();
    let entry = |name: &str| {
        let found = entries.iter().find(|(key, _)| match key {
            Value::Bytes(key) => &**key == name.as_bytes(),
            Value::Text(key) => &**key == name,
            _ => false,
        });
        found.map(|(_, value)| value).ok_or_else(|| format!("has no entry `{name}`"))
    };
    let Value::List(labels) = entry("labels")? else {
        return Err("`labels` is not a list".into());
    };
    let labels = labels
        .borrow()
        .iter()
        .map(|label| match label {
            Value::Int(label) => Ok(*label),
            _ => Err("`labels` holds something other than integers".to_string()),
        })
        .collect::<Result<_, _>>()?;
    let (data, row_len) =
        byte_matrix(entry("data")?).ok_or("`data` is not a C-ordered (N, D) array of u8")?;
    Ok(PickledBatch { labels, data, row_len })
}

/// The bytes and the row length of a two-dimensional NumPy array. Its state is the tuple (version,
/// shape, dtype, whether in Fortran order, bytes).
fn byte_matrix(value: &Value) -> Option<(Vec<u8>, usize)> {
    let Value::Call(call) = value else { return None };
    let state = call.state.borrow();
    let Some(Value::Tuple(state)) = &*state else { return None };
    let [_, Value::Tuple(shape), Value::Call(dtype), Value::Int(0), Value::Bytes(bytes)] = state.as_slice()
    else {
        return None;
    };
    let Value::Tuple(dtype_args) = &dtype.args else { return None };
    let is_u8 = match dtype_args.first()? {
        Value::Bytes(name) => &**name == b"u1",
        Value::Text(name) => &**name == "u1",
        _ => false,
    };
    let [Value::Int(n_rows), Value::Int(row_len)] = shape.as_slice() else { return None };
    let (n_rows, row_len) = (usize::try_from(*n_rows).ok()?, usize::try_from(*row_len).ok()?);
    (is_u8 && n_rows.checked_mul(row_len)? == bytes.len()).then(|| (bytes.to_vec(), row_len))
}

/// Runs the stack machine over a whole pickle.
fn load(pickle: &[u8]) -> Result<Value, String> {
    Machine { input: pickle, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() }.run()
}

struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
}

impl Machine<'_> {
    fn run(mut self) -> Result<Value, String> {
        loop {
            let at = self.at;
            let opcode = self.take(1)?[0];
            match opcode {
                b'.' => return self.pop(),
                0x80 => drop(self.take(1)?),               // PROTO
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
                b']' => self.stack.push(Value::List(Rc::default())), // EMPTY_LIST
                b'}' => self.stack.push(Value::Dict(Rc::default())), // EMPTY_DICT
                b')' => self.tuple(0)?,            // EMPTY_TUPLE
                0x85..=0x87 => self.tuple(usize::from(opcode - 0x84))?, // TUPLE1, 2, 3
                b't' => {
                    let items = self.pop_to_mark()?; // TUPLE
                    self.stack.push(Value::Tuple(Rc::new(items)));
                }
                b'a' => {
                    let item = self.pop()?; // APPEND
                    self.extend_list(vec![item])?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?; // APPENDS
                    self.extend_list(items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?); // SETITEM
                    self.extend_dict(vec![key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?; // SETITEMS
                    self.extend_dict(items)?;
                }
                b'c' => {
                    let name = format!("{} {}", self.line()?, self.line()?); // GLOBAL
                    self.stack.push(Value::Global(name.into()));
                }
                0x93 => self.stack_global()?, // STACK_GLOBAL
                b'R' => self.reduce()?,       // REDUCE
                b'b' => self.build()?,        // BUILD
                _ => return Err(format!("has an unexpected opcode {opcode:#04x} at byte {at}")),
            }
        }
    }

    fn take(&mut self, n: usize) -> Result<&[u8], String> {
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

    fn line(&mut self) -> Result<String, String> {
        let n = self.input[self.at..].iter().position(|&byte| byte == b'\n').ok_or("is truncated")?;
        let line = String::from_utf8_lossy(self.take(n)?).into_owned();
        self.at += 1;
        Ok(line)
    }

    fn pop(&mut self) -> Result<Value, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("takes from an empty stack".into());
        }
        self.stack.pop().ok_or_else(|| "takes from an empty stack".into())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, String> {
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

    fn bytes<const N: usize>(&mut self) -> Result<(), String> {
        let n = self.number::<N>()?;
        let bytes = self.take(usize::try_from(n).map_err(|_| "is truncated")?)?.into();
        self.stack.push(Value::Bytes(bytes));
        Ok(())
    }

    fn text<const N: usize>(&mut self) -> Result<(), String> {
        let n = self.number::<N>()?;
        let bytes = self.take(usize::try_from(n).map_err(|_| "is truncated")?)?;
        let text = std::str::from_utf8(bytes).map_err(|_| "holds text that is not UTF-8")?.into();
        self.stack.push(Value::Text(text));
        Ok(())
    }

    fn put(&mut self, slot: u32) -> Result<(), String> {
        let top = self.stack.last().ok_or("takes from an empty stack")?.clone();
        self.memo.insert(slot, top);
        Ok(())
    }

    fn put_at<const N: usize>(&mut self) -> Result<(), String> {
        let slot = self.number::<N>()? as u32;
        self.put(slot)
    }

    fn get<const N: usize>(&mut self) -> Result<(), String> {
        let slot = self.number::<N>()? as u32;
        let value = self.memo.get(&slot).ok_or("refers to a value that it did not define")?.clone();
        self.stack.push(value);
        Ok(())
    }

    fn tuple(&mut self, n: usize) -> Result<(), String> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.stack.push(Value::Tuple(Rc::new(items)));
        Ok(())
    }

    fn extend_list(&mut self, items: Vec<Value>) -> Result<(), String> {
        let Some(Value::List(list)) = self.stack.last() else {
            return Err("appends to something other than a list".into());
        };
        list.borrow_mut().extend(items);
        Ok(())
    }

    /// `items` holds keys and values in turn.
    fn extend_dict(&mut self, items: Vec<Value>) -> Result<(), String> {
        let Some(Value::Dict(dict)) = self.stack.last() else {
            return Err("sets an entry of something other than a dictionary".into());
        };
        let pairs = items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
        dict.borrow_mut().extend(pairs);
        Ok(())
    }

    fn stack_global(&mut self) -> Result<(), String> {
        let (Value::Text(name), Value::Text(module)) = (self.pop()?, self.pop()?) else {
            return Err("names a global by something other than text".into());
        };
        self.stack.push(Value::Global(format!("{module} {name}").into()));
        Ok(())
    }

    /// Python 3 writes bytes at protocol 2 as `_codecs.encode(text, 'latin1')`, which is undone
    /// here; every other call stays a description.
    fn reduce(&mut self) -> Result<(), String> {
        let (args, callable) = (self.pop()?, self.pop()?);
        if let (Value::Global(name), Value::Tuple(items)) = (&callable, &args)
            && &**name == "_codecs encode"
            && let Some(Value::Text(text)) = items.first()
        {
            let bytes = text.chars().map(|c| u8::try_from(u32::from(c))).collect::<Result<Rc<[u8]>, _>>();
            self.stack.push(Value::Bytes(bytes.map_err(|_| "holds bytes that are not Latin-1")?));
            return Ok(());
        }
        self.stack.push(Value::Call(Rc::new(Call { args, state: RefCell::default() })));
        Ok(())
    }

    fn build(&mut self) -> Result<(), String> {
        let state = self.pop()?;
        let Some(Value::Call(call)) = self.stack.last() else {
            return Err("gives a state to something other than an object".into());
        };
        *call.state.borrow_mut() = Some(state);
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
