//! Arithmetic: a recursive-descent parser that computes as it reads. Whole numbers stay exact as
//! long as they fit 64 bits.

use serde_json::{Number, Value};

/// The longest expression, bytes: no person or model needs more, and it bounds the work.
const EXPRESSION_BYTES_MAX: usize = 4096;

/// How deep parentheses, signs and powers may nest, so that the parser can't run out of stack.
const DEPTH_MAX: u32 = 64;

/// Evaluates an expression to a JSON number.
///
/// # Errors
/// What is wrong with it and at which character, in words for the model.
pub(super) fn evaluate(expression: &str) -> Result<Value, String> {
    if expression.len() > EXPRESSION_BYTES_MAX {
        return Err(format!("the expression is longer than {EXPRESSION_BYTES_MAX} bytes"));
    }
    let mut parser = Parser { text: expression, place: 0, depth: 0 };
    let number = parser.sum()?;
    parser.skip_blanks();
    if parser.place < expression.len() {
        return Err(parser.wrong("an operator or the end"));
    }
    number.to_json()
}

/// A number: exact while it can be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Num {
    Int(i64),
    Real(f64),
}

impl Num {
    #[expect(clippy::cast_precision_loss, reason = "a real is as near as it can be")]
    fn real(self) -> f64 {
        match self {
            Num::Int(int) => int as f64,
            Num::Real(real) => real,
        }
    }

    fn to_json(self) -> Result<Value, String> {
        /// Up to here every whole real is an exact integer.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        match self {
            Num::Int(int) => Ok(Value::Number(int.into())),
            #[expect(clippy::cast_possible_truncation, reason = "it is whole and below 2^53")]
            Num::Real(real) if real.fract() == 0.0 && real.abs() < EXACT => {
                Ok(Value::Number((real as i64).into()))
            }
            Num::Real(real) => Number::from_f64(real)
                .map(Value::Number)
                .ok_or_else(|| "the result is not a finite number".to_owned()),
        }
    }

    /// The exact result where there is one, else the real one.
    fn exact(
        self,
        other: Num,
        int: impl Fn(i64, i64) -> Option<i64>,
        real: impl Fn(f64, f64) -> f64,
    ) -> Num {
        if let (Num::Int(a), Num::Int(b)) = (self, other)
            && let Some(exact) = int(a, b)
        {
            return Num::Int(exact);
        }
        Num::Real(real(self.real(), other.real()))
    }
}

struct Parser<'a> {
    text: &'a str,
    place: usize,
    depth: u32,
}

impl Parser<'_> {
    /// `product (('+' | '-') product)*`
    fn sum(&mut self) -> Result<Num, String> {
        let mut left = self.product()?;
        loop {
            if self.take("+") {
                left = left.exact(self.product()?, i64::checked_add, |a, b| a + b);
            } else if self.take("-") || self.take("−") {
                left = left.exact(self.product()?, i64::checked_sub, |a, b| a - b);
            } else {
                return Ok(left);
            }
        }
    }

    /// `signed (('*' | '/' | '%') signed)*`
    fn product(&mut self) -> Result<Num, String> {
        let mut left = self.signed()?;
        loop {
            if self.take("*") || self.take("×") || self.take("·") {
                left = left.exact(self.signed()?, i64::checked_mul, |a, b| a * b);
            } else if self.take("/") || self.take("÷") {
                let right = self.divisor()?;
                let whole =
                    |a: i64, b: i64| if a.checked_rem(b)? == 0 { a.checked_div(b) } else { None };
                left = left.exact(right, whole, |a, b| a / b);
            } else if self.take("%") {
                left = left.exact(self.divisor()?, i64::checked_rem, |a, b| a % b);
            } else {
                return Ok(left);
            }
        }
    }

    fn divisor(&mut self) -> Result<Num, String> {
        let right = self.signed()?;
        if right.real() == 0.0 { Err("division by zero".to_owned()) } else { Ok(right) }
    }

    /// `('-' | '+') signed | power`
    fn signed(&mut self) -> Result<Num, String> {
        self.deeper()?;
        let signed = if self.take("-") || self.take("−") {
            Num::Int(0).exact(self.signed()?, i64::checked_sub, |a, b| a - b)
        } else if self.take("+") {
            self.signed()?
        } else {
            self.power()?
        };
        self.depth -= 1;
        Ok(signed)
    }

    /// `atom (('^' | '**') signed)?`: to the right, and before a sign on its left.
    fn power(&mut self) -> Result<Num, String> {
        let base = self.atom()?;
        if !(self.take("^") || self.take("**")) {
            return Ok(base);
        }
        let exponent = self.signed()?;
        Ok(base.exact(exponent, |a, b| a.checked_pow(u32::try_from(b).ok()?), f64::powf))
    }

    /// A number, a parenthesis, a constant or a function.
    fn atom(&mut self) -> Result<Num, String> {
        if self.take("(") {
            let inner = self.sum()?;
            return self.close().map(|()| inner);
        }
        self.skip_blanks();
        let rest = &self.text[self.place..];
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            return self.named(&rest[..end].to_ascii_lowercase(), end);
        }
        self.number()
    }

    fn named(&mut self, name: &str, length: usize) -> Result<Num, String> {
        let known = "pi, e, sqrt, abs, round, floor, ceil, min, max";
        match name {
            "pi" | "e" => {
                self.place += length;
                let value = if name == "pi" { std::f64::consts::PI } else { std::f64::consts::E };
                Ok(Num::Real(value))
            }
            "sqrt" | "abs" | "round" | "floor" | "ceil" | "min" | "max" => {
                self.place += length;
                let arguments = self.arguments()?;
                apply(name, &arguments)
            }
            _ => Err(self.wrong(&format!("a number or one of {known}"))),
        }
    }

    fn arguments(&mut self) -> Result<Vec<Num>, String> {
        if !self.take("(") {
            return Err(self.wrong("`(`"));
        }
        let mut arguments = vec![self.sum()?];
        while self.take(",") {
            arguments.push(self.sum()?);
        }
        self.close().map(|()| arguments)
    }

    fn close(&mut self) -> Result<(), String> {
        if self.take(")") { Ok(()) } else { Err(self.wrong("`)`")) }
    }

    /// `12`, `1.5`, `.5`, `1_000`, `2e-3`.
    fn number(&mut self) -> Result<Num, String> {
        let rest = &self.text.as_bytes()[self.place..];
        let digits = |from: usize| {
            rest[from..].iter().take_while(|b| b.is_ascii_digit() || **b == b'_').count()
        };
        let mut end = digits(0);
        if rest.get(end) == Some(&b'.') {
            end += 1 + digits(end + 1);
        }
        if matches!(rest.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(rest.get(end + 1), Some(b'+' | b'-')));
            let exponent = digits(end + 1 + sign);
            if exponent > 0 {
                end += 1 + sign + exponent;
            }
        }
        let text = self.text[self.place..self.place + end].replace('_', "");
        let number = text
            .parse::<i64>()
            .map(Num::Int)
            .or_else(|_not_whole| text.parse::<f64>().map(Num::Real))
            .map_err(|_no_number| self.wrong("a number"))?;
        self.place += end;
        Ok(number)
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_blanks();
        let found = self.text[self.place..].starts_with(token)
            // `**` is a power, not a product of nothing.
            && !(token == "*" && self.text[self.place..].starts_with("**"));
        if found {
            self.place += token.len();
        }
        found
    }

    fn skip_blanks(&mut self) {
        let rest = &self.text[self.place..];
        self.place += rest.len() - rest.trim_start().len();
    }

    fn deeper(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("the expression is nested deeper than {DEPTH_MAX}"));
        }
        Ok(())
    }

    fn wrong(&self, expected: &str) -> String {
        let place = self.text[..self.place].chars().count() + 1;
        match self.text[self.place..].chars().next() {
            Some(found) => format!("expected {expected} at character {place}, found `{found}`"),
            None => format!("expected {expected} at character {place}, found the end"),
        }
    }
}

fn apply(name: &str, arguments: &[Num]) -> Result<Num, String> {
    let whole = |real: f64| -> Num {
        let exact = real.abs() < 9.0e15;
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and fits")]
        if exact { Num::Int(real as i64) } else { Num::Real(real) }
    };
    match (name, arguments) {
        ("sqrt", [one]) if one.real() < 0.0 => Err("the root of a negative number".to_owned()),
        ("sqrt", [one]) => Ok(Num::Real(one.real().sqrt())),
        ("abs", [Num::Int(int)]) => {
            Ok(int.checked_abs().map_or(Num::Real(Num::Int(*int).real().abs()), Num::Int))
        }
        ("abs", [one]) => Ok(Num::Real(one.real().abs())),
        ("round" | "floor" | "ceil", [int @ Num::Int(_)]) => Ok(*int),
        ("round", [one]) => Ok(whole(one.real().round())),
        ("floor", [one]) => Ok(whole(one.real().floor())),
        ("ceil", [one]) => Ok(whole(one.real().ceil())),
        ("min" | "max", [first, rest @ ..]) => Ok(rest.iter().fold(*first, |best, one| {
            let is_better =
                if name == "min" { one.real() < best.real() } else { one.real() > best.real() };
            if is_better { *one } else { best }
        })),
        _ => Err(format!("`{name}` takes one argument, got {}", arguments.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expression: &str, expected: &str) {
        let told = evaluate(expression).map_or_else(|words| words, |number| number.to_string());
        assert_eq!(told, expected, "{expression}");
    }

    #[test]
    fn arithmetic_is_as_people_write_it() {
        check("2+2", "4");
        check("2 + 3 * 4", "14");
        check("(2 + 3) × 4", "20");
        check("-2^2", "-4");
        check("2^3^2", "512");
        check("2 ** -1", "0.5");
        check("7/2", "3.5");
        check("6/3", "2");
        check("10 % 4", "2");
        check("1_000 * .5", "500");
        check("2e3 + 1", "2001");
        check("--3", "3");
        check("max(1, 2.5, -3) - min(4, 2)", "0.5");
        check("sqrt(16) + abs(-2) + round(2.5) + floor(2.9) + ceil(2.1)", "14");
    }

    #[test]
    fn whole_numbers_are_exact_while_they_fit() {
        check("9007199254740993 + 0", "9007199254740993");
        check("9223372036854775807 - 1", "9223372036854775806");
        check("9223372036854775807 + 1", "9.223372036854776e+18");
        check("9223372036854775807 % -1", "0");
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        check("", "expected a number at character 1, found the end");
        check("2 +", "expected a number at character 4, found the end");
        check("(1", "expected `)` at character 3, found the end");
        check("2 $ 3", "expected an operator or the end at character 3, found `$`");
        check("1/0", "division by zero");
        check("10^400", "the result is not a finite number");
        check("sqrt(-1)", "the root of a negative number");
        check("abs(1, 2)", "`abs` takes one argument, got 2");
        check("é", "expected a number at character 1, found `é`");
    }

    #[test]
    fn neither_depth_nor_length_can_harm() {
        check(&"(".repeat(3000), "the expression is nested deeper than 64");
        check(&"-".repeat(3000), "the expression is nested deeper than 64");
        check(&"1+".repeat(3000), "the expression is longer than 4096 bytes");
    }
}
