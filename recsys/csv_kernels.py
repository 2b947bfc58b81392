"""Numba kernels from the bytes of a delimited text file to numbered events.

A file is cut into regions, one a thread; each region numbers the ids it meets with a table of its
own, and the tables are merged afterwards, so the result does not depend on the number of threads.
Ids are compared by 96-bit fingerprints (two independent multiplicative hashes of all bytes and the
length): among 10 million ids the chance that any two are taken for one is below 1e-14.
"""

from typing import Any

import numba
import numpy as np
from numba.extending import intrinsic

from recsys.kernels import jit

PADDING = 8  # bytes that must be readable behind the last row
BATCH = 64  # rows whose ids are looked up together
OK, MALFORMED, QUOTED, BAD_TIME, BAD_RATING = range(5)
NO_TIME, DATE, DATETIME, SECONDS = range(4)

ONES = np.uint64(0x0101010101010101)
HIGHS = np.uint64(0x8080808080808080)
MULTIPLIER_A = np.uint64(0x9E3779B97F4A7C15)
MULTIPLIER_B = np.uint64(0xC2B2AE3D27D4EB4F)


@intrinsic  # type: ignore[untyped-decorator]
def _load64(typingctx: Any, array: Any, index: Any) -> Any:
    """The 8 bytes of a uint8 array from `index` on as one number, wherever they are aligned."""
    from llvmlite import ir  # type: ignore[import-untyped]

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.gep(view.data, [arguments[1]])
        word = builder.bitcast(address, ir.IntType(64).as_pointer())
        return builder.load(word, align=1)

    return numba.uint64(array, numba.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _trailing_zeros(typingctx: Any, value: Any) -> Any:
    from llvmlite import ir  # type: ignore[import-untyped]

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return numba.uint64(numba.uint64), codegen


@jit
def _zero_bytes(word):  # type: ignore[no-untyped-def]
    """High bit set in the lowest zero byte of `word` (bits above it may be wrong)."""
    return (word - ONES) & ~word & HIGHS


@jit
def _mix(state, word, multiplier):  # type: ignore[no-untyped-def]
    state = (state ^ word) * multiplier
    return state ^ (state >> np.uint64(32))


@jit
def new_table(slots):  # type: ignore[no-untyped-def]
    """An empty table: (slots, 2) uint64 of fingerprint and (32 more bits, number + 1)."""
    return np.zeros((slots, 2), np.uint64)


@jit
def _place(table, first, second):  # type: ignore[no-untyped-def]
    """Number of the fingerprint, or -1 - slot where it is to be put."""
    mask = np.uint64(table.shape[0] - 1)
    slot = (first ^ (first >> np.uint64(29))) & mask
    upper = second & np.uint64(0xFFFFFFFF00000000)
    while True:
        entry = table[slot, 1]
        if entry == 0:
            return -1 - np.int64(slot)
        if table[slot, 0] == first and (entry & np.uint64(0xFFFFFFFF00000000)) == upper:
            return np.int64(entry & np.uint64(0xFFFFFFFF)) - 1
        slot = (slot + np.uint64(1)) & mask


@jit
def _put(table, slot, first, second, number):  # type: ignore[no-untyped-def]
    table[slot, 0] = first
    table[slot, 1] = (second & np.uint64(0xFFFFFFFF00000000)) | np.uint64(number + 1)


@jit
def grown(table, room):  # type: ignore[no-untyped-def]
    """`table`, or a larger copy, that takes `room` entries at a load below 0.7."""
    slots = table.shape[0]
    while room * 10 > slots * 7:
        slots *= 2
    if slots == table.shape[0]:
        return table
    larger = new_table(slots)
    for s in range(table.shape[0]):
        entry = table[s, 1]
        if entry != 0:
            slot = -1 - _place(larger, table[s, 0], entry)
            larger[slot, 0] = table[s, 0]
            larger[slot, 1] = entry
    return larger


@jit
def merge(table, n, other, n_other, mapping):  # type: ignore[no-untyped-def]
    """Number the entries of `other` in `table`, new ones from n on in their own order.

    mapping (n_other,) int32 receives the number of each. Returns (table, n).
    """
    order = np.empty(n_other, np.int64)
    for s in range(other.shape[0]):
        if other[s, 1] != 0:
            order[np.int64(other[s, 1] & np.uint64(0xFFFFFFFF)) - 1] = s
    table = grown(table, n + n_other)
    for number in range(n_other):
        s = order[number]
        found = _place(table, other[s, 0], other[s, 1])
        if found < 0:
            _put(table, -1 - found, other[s, 0], other[s, 1], n)
            found = n
            n += 1
        mapping[number] = found
    return table, n


@jit
def _number(data, at, digits):  # type: ignore[no-untyped-def]
    """The decimal number in `digits` bytes, -1 where one of them is no digit."""
    value = np.int64(0)
    for p in range(at, at + digits):
        digit = np.int64(data[p]) - 48
        if digit < 0 or digit > 9:
            return np.int64(-1)
        value = value * 10 + digit
    return value


@jit
def _days(data, at):  # type: ignore[no-untyped-def]
    """Days since 1970 of YYYY-MM-DD, -1 where that is no date (or before 1970)."""
    year, month, day = _number(data, at, 4), _number(data, at + 5, 2), _number(data, at + 8, 2)
    if data[at + 4] != 45 or data[at + 7] != 45 or year < 1970 or month < 1 or day < 1:
        return np.int64(-1)
    leap = (year % 4 == 0 and year % 100 != 0) or year % 400 == 0
    longest = 31
    if month == 4 or month == 6 or month == 9 or month == 11:
        longest = 30
    elif month == 2:
        longest = 29 if leap else 28
    if month > 12 or day > longest:
        return np.int64(-1)
    # Days of the civil calendar, years starting in March (H. Hinnant, chrono-compatible dates).
    shifted = year - 1 if month <= 2 else year
    era = shifted // 400
    of_era = shifted - era * 400
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


@jit
def _time(data, at, length, kind):  # type: ignore[no-untyped-def]
    """Days or seconds since 1970, -1 where the field is not of this kind."""
    if kind == SECONDS:
        return _number(data, at, length) if 0 < length <= 10 else np.int64(-1)
    if length < 10:
        return np.int64(-1)
    days = _days(data, at)
    if days < 0 or kind == DATE:
        return days if length == 10 else np.int64(-1)
    if length != 19 or (data[at + 10] != 32 and data[at + 10] != 84):
        return np.int64(-1)
    hour, minute = _number(data, at + 11, 2), _number(data, at + 14, 2)
    second = _number(data, at + 17, 2)
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59:
        return np.int64(-1)
    if data[at + 13] != 58 or data[at + 16] != 58:
        return np.int64(-1)
    return days * 86_400 + hour * 3_600 + minute * 60 + second


@jit
def _decimal(data, at, length):  # type: ignore[no-untyped-def]
    """(value, ok) of digits with an optional sign and point."""
    value, scale, digits = 0.0, 1.0, 0
    negative = length > 0 and data[at] == 45
    point = False
    for p in range(at + negative, at + length):
        digit = np.int64(data[p]) - 48
        if data[p] == 46 and not point:
            point = True
        elif 0 <= digit <= 9:
            value = value * 10.0 + digit
            digits += 1
            if point:
                scale *= 10.0
        else:
            return 0.0, False
    value /= scale
    return (-value if negative else value), 0 < digits < 16


@jit
def _enlist(ids, first, second, left, length):  # type: ignore[no-untyped-def]
    """Number a new id that stands at data[left : left + length]; see `parse_rows`."""
    table, n, spans = ids
    if n == spans.shape[0]:
        larger = np.empty((2 * n, 2), np.int64)
        for s in range(n):  # an assignment of slices takes four seconds to compile
            larger[s, 0], larger[s, 1] = spans[s, 0], spans[s, 1]
        spans = larger
    _put(table, -1 - _place(table, first, second), first, second, n)
    spans[n, 0] = left
    spans[n, 1] = length
    return grown(table, n + 2), n + 1, spans


@jit
def _number_ids(ids, fixed, marks, n, numbers):  # type: ignore[no-untyped-def]
    """numbers (n,) of the ids of n rows, marks (n, 4) = two hashes, offset, length; see below.

    A loop of its own, so that the processor has many look-ups on their way to memory at once.
    """
    table = ids[0]
    for r in range(n):
        if marks[r, 3] == 0:
            numbers[r] = -2
            continue
        found = _place(table, marks[r, 0], marks[r, 1])
        if found < 0:
            found = np.int64(-1)
            if not fixed:
                found = np.int64(ids[1])
                ids = _enlist(
                    ids, marks[r, 0], marks[r, 1], np.int64(marks[r, 2]), np.int64(marks[r, 3])
                )
                table = ids[0]
        numbers[r] = found
    return ids


@jit
def parse_rows(  # type: ignore[no-untyped-def]
    data, start, stop, separator, terminator, skip, n_fields, user_field, item_field, time_field,
    rating_field, time_kind, users, items, fixed_users, fixed_items,
    out_users, out_keys, out_values,
):  # fmt: skip
    """Read the rows that start in data[start:stop], as many as the output arrays hold.

    PADDING bytes behind the last row are readable. users, items: (table, ids in it, (capacity, 2)
    int64 offset and length of each); returned with the new ids, of which a fixed one takes none.
    out_users (rows,) int32 is the user's number, out_keys (rows,) uint64 is item << 32 | time, with
    -1 for an unknown and -2 for an empty field; out_values (rows,) float32 where there is a rating.

    Returns (status, rows read, position of the first row not read, users, items).
    """
    separators = np.uint64(separator) * ONES
    terminators = np.uint64(terminator) * ONES
    user_marks = np.empty((BATCH, 4), np.uint64)
    item_marks = np.empty((BATCH, 4), np.uint64)
    item_numbers = np.empty(BATCH, np.int32)
    times = np.empty(BATCH, np.int64)
    n_rows = 0
    at = begin = start
    status = OK
    last_time = np.int64(0)
    last_head, last_tail = np.uint64(0), np.uint64(0)
    while at < stop and status == OK and n_rows < out_users.size:
        n = 0
        room = min(BATCH, out_users.size - n_rows)
        while n < room and at < stop:
            begin = at
            if data[at] == terminator:  # an empty line
                at += skip
                continue
            time = np.int64(0)
            for field in range(n_fields):
                left = at
                if data[at] == 34:
                    status = QUOTED
                    break
                first, second = MULTIPLIER_B, MULTIPLIER_A
                wanted = field in (user_field, item_field)
                while True:
                    word = _load64(data, at)
                    ends = _zero_bytes(word ^ separators) | _zero_bytes(word ^ terminators)
                    if ends != 0:
                        break
                    if wanted:
                        first = _mix(first, word, MULTIPLIER_A)
                        second = _mix(second, word, MULTIPLIER_B)
                    at += 8
                rest = _trailing_zeros(ends) >> np.uint64(3)
                at += np.int64(rest)
                length = at - left
                is_last = data[at] == terminator
                if is_last != (field == n_fields - 1):
                    status = MALFORMED
                    break
                at += skip if is_last else 1
                if wanted:
                    # The length, in the unused high byte, tells a short last word from zeros.
                    word = word & ((np.uint64(1) << (rest * np.uint64(8))) - np.uint64(1))
                    word |= (rest + np.uint64(1)) << np.uint64(56)
                    first = _mix(first, word, MULTIPLIER_A)
                    second = _mix(_mix(second, word, MULTIPLIER_B), first, MULTIPLIER_B)
                    marks = user_marks if field == user_field else item_marks
                    marks[n, 0] = first
                    marks[n, 1] = second
                    marks[n, 2] = left
                    marks[n, 3] = length
                elif field == time_field:
                    head, tail = _load64(data, left), _load64(data, left + 2)
                    if time_kind != DATE or length != 10 or head != last_head or tail != last_tail:
                        last_time = _time(data, left, length, time_kind)
                        last_head, last_tail = head, tail
                    if length == 0:
                        time = np.int64(-2)
                    elif last_time < 0 or last_time > 0xFFFFFFFF:
                        status = BAD_TIME
                        break
                    elif time == 0:
                        time = last_time
                elif field == rating_field:
                    number, good = _decimal(data, left, length)
                    if length == 0:
                        time = np.int64(-2)
                    elif not good:
                        status = BAD_RATING
                        break
                    else:
                        out_values[n_rows + n] = number
            if status != OK:
                break
            times[n] = time
            n += 1
        users = _number_ids(users, fixed_users, user_marks, n, out_users[n_rows:])
        if item_field >= 0:
            items = _number_ids(items, fixed_items, item_marks, n, item_numbers)
        for r in range(n):
            item = np.uint64(np.uint32(item_numbers[r]))
            if times[r] < 0:
                out_users[n_rows + r] = -2
                times[r] = 0
            out_keys[n_rows + r] = (item << np.uint64(32)) | np.uint64(times[r])
        n_rows += n
    return status, n_rows, (at if status == OK else begin), users, items


@jit
def copy_spans(data, spans, n, out):  # type: ignore[no-untyped-def]
    """The ids that stand at spans[:n], one a line."""
    at = 0
    for s in range(n):
        for p in range(spans[s, 0], spans[s, 0] + spans[s, 1]):
            out[at] = data[p]
            at += 1
        out[at] = 10
        at += 1


@jit
def renumber(users, keys, user_map, item_map, counts, limit, dropped):  # type: ignore[no-untyped-def]
    """Final numbers for the rows of one piece, in place; counts (n_users,) += rows that stay.

    Rows that do not stay are counted in dropped: [0] empty, [1] unknown user, [2] unknown item,
    [3] a time above `limit`. They get user -1; an unknown user -2 beside the item's final number,
    an unknown item -3 less the user's.
    """
    for p in range(users.size):
        user = users[p]
        item = np.int32(np.uint32(keys[p] >> np.uint64(32)))
        time = np.uint32(keys[p] & np.uint64(0xFFFFFFFF))
        why = -1
        if user == -2 or item == -2:
            why = 0
        elif time > limit:
            why = 3
        elif user == -1:
            why = 1
        elif item == -1:
            why = 2
        if why >= 0:
            dropped[why] += 1
            users[p] = -1
            if why == 1:
                users[p] = -2
                if item >= 0:
                    keys[p] = np.uint64(item_map[item]) << np.uint64(32)
            elif why == 2:
                users[p] = -3 - user_map[user]
            continue
        user = user_map[user]
        users[p] = user
        keys[p] = (np.uint64(item_map[item]) << np.uint64(32)) | np.uint64(time)
        counts[user] += 1


@jit
def scatter_keys(users, keys, cursor, out_keys):  # type: ignore[no-untyped-def]
    """out_keys[cursor[user]++] = key for the rows that stay."""
    for p in range(users.size):
        user = users[p]
        if user >= 0:
            at = cursor[user]
            cursor[user] = at + 1
            out_keys[at] = keys[p]
