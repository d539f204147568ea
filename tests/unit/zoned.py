"""What the tests of times share: zones that change their clocks oddly, and instants near such changes."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import settings
from hypothesis import strategies as st

from gnomon.timerange import (
    US_HOUR,
    US_MINUTE,
    Grain,
    from_us,
    offset_pieces,
    resolve_range,
    to_us,
)

NAMES = [
    "Asia/Kathmandu", "Australia/Lord_Howe", "America/New_York", "America/Sao_Paulo", "Pacific/Apia",
    "Africa/Casablanca", "America/Havana", "Europe/London", "America/St_Johns", "UTC",
]  # fmt: skip
ZONES = [ZoneInfo(name) for name in NAMES]
NEW_YORK = ZoneInfo("America/New_York")
SAO_PAULO = ZoneInfo("America/Sao_Paulo")
APIA = ZoneInfo("Pacific/Apia")
ST_JOHNS = ZoneInfo("America/St_Johns")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
LOW, HIGH = to_us(datetime(1975, 1, 1, tzinfo=UTC)), to_us(datetime(2035, 1, 1, tzinfo=UTC))
CHANGES = {zone: offset_pieces(zone, LOW, HIGH) for zone in ZONES}
LONG_GRAINS = [grain for grain in Grain if grain not in (Grain.MINUTE, Grain.HOUR)]

zones = st.sampled_from(ZONES)
grains = st.sampled_from(list(Grain))
quick = settings(max_examples=150, deadline=None)


@st.composite
def zoned_instants(draw):
    """A zone and an instant: half of them anywhere, half within three hours of one of the zone's clock changes."""
    zone = draw(zones)
    near = draw(st.booleans())
    if not near or len(CHANGES[zone]) == 1:
        return zone, draw(st.integers(LOW, HIGH - 1))
    edge = draw(st.sampled_from(CHANGES[zone][1:])).start_us
    return zone, edge + draw(st.integers(-3 * US_HOUR, 3 * US_HOUR) | st.sampled_from([-1, 0, 1]))


def us(text):
    return to_us(datetime.fromisoformat(text))


def local(us_value, zone):
    return from_us(us_value, zone).isoformat()


def resolve(value, now="2024-03-13T15:30:00+00:00", zone=NEW_YORK, **more):
    return resolve_range(value, now=datetime.fromisoformat(now), zone=zone, **more)


def shown(found):
    return found.start.isoformat(), found.end.isoformat()


def local_date(us_value, zone):
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us_value)).astimezone(zone).date()


def scanned_day_start(day, zone):
    """The first minute of a day's UTC surroundings at which the zone shows that date; None when none does."""
    middle = to_us(datetime(day.year, day.month, day.day, tzinfo=UTC))
    for minute in range(-26 * 60, 26 * 60):
        at = middle + minute * US_MINUTE
        if local_date(at, zone) == day:
            return at
    return None
