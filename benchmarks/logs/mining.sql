-- Mining as SQL that DuckDB and Spark both take; mining_peers.py runs it.
-- A log of mining_log.py is there as `log`. `table` is kept, `view` only named.
-- Left out against mine_pairs: everything that such a log does not need (repair of
-- text, privacy patterns, fractions of clicks, label files), the naming of languages, and
-- what follows from the other columns (head, texts of variants, kind of evidence).

-- view: typed
select lower(trim(regexp_replace(query, ' +', ' '{global}))) as query, trim(image) as key,
  coalesce(clicks, 1) as clicks, coalesce(impressions, 1) as impressions,
  coalesce(position, 0) as position, session_name, user_name, time, language
from log
where coalesce(trim(query), '') <> '' and coalesce(trim(image), '') <> ''
  and coalesce(clicks, 1) >= 0 and coalesce(impressions, 1) >= 0
  and coalesce(position, 1) between 1 and 1000000
  and (coalesce(clicks, 1) > 0 or coalesce(impressions, 1) > 0);

-- table: texts
select query, query_id_of(query) as query_id from (select distinct query from typed) found;

-- table: events
select distinct key, query_id, clicks * 1024 as clicks, impressions, least(position, 100) as position,
  session_name, user_name, time, language,
  -- The names of users and of sessions never collide in such a log.
  coalesce(user_name, session_name) as person,
  coalesce(cast(floor(time / 86400000e0) as bigint), -1) as day
from typed join texts on typed.query = texts.query;

-- view: robots
select person, day from events where person is not null
group by person, day having count(*) > 1000;

-- table: humans
select events.* from events
left join robots on events.person = robots.person and events.day = robots.day
where robots.person is null;

-- table: popular
select query_id, count(distinct user_name) as users from humans
group by query_id having count(distinct user_name) >= 5;

-- table: evidence
select person, day, query_id, key,
  cast(least(sum(clicks), 3072) as bigint) as clicks,
  cast(least(sum(impressions), 3) as bigint) as impressions,
  coalesce(min(nullif(position, 0)), 0) as position
from humans where person is not null group by person, day, query_id, key
union all
select null, day, query_id, key, cast(sum(clicks) as bigint),
  cast(sum(impressions) as bigint), position
from humans where person is null group by day, query_id, key, position;

-- table: steps
select query_a, query_b, sum(n) as n from (
  select least(query_id, later) as query_a, greatest(query_id, later) as query_b, 1 as n
  from (
    select query_id, time,
      lead(query_id) over (partition by user_name, session_name order by time, query_id) as later,
      lead(time) over (partition by user_name, session_name order by time, query_id) as later_time
    from humans
    where time is not null and (user_name is not null or session_name is not null)) neighbours
  where query_id <> later and later_time - time <= 1800000) steps_taken
where query_a in (select query_id from popular) and query_b in (select query_id from popular)
group by query_a, query_b;

-- table: places
select position, cast(sum(clicks) as bigint) as c, cast(sum(impressions) as bigint) as i,
  cast(sum(greatest(0, impressions - ceil(clicks / 1024e0))) as bigint) as unclicked
from evidence group by position;

-- python: examination

-- table: pooled
select key, evidence.query_id, sum(clicks) / 1024e0 as clicks,
  greatest(sum(clicks) / 1024e0, sum(impressions * examined) / 65536e0) as examined,
  min(case when clicks > 0 then person end) as first_person,
  max(case when clicks > 0 then person end) as last_person,
  max(case when clicks > 0 and person is null then 1 else 0 end) as anonymous
from evidence join examination on evidence.position = examination.position
join popular on evidence.query_id = popular.query_id
group by key, evidence.query_id;

-- table: images
select key, image_id_of(key) as image_id from (select distinct key from pooled) found;

-- view: scored
select image_id, query_id, clicks, examined, {score} as score
from pooled join images on pooled.key = images.key
where clicks >= 1 and (anonymous = 1 or first_person <> last_person);

-- table: spelled
select * from (
  select *, row_number() over (
    partition by query_id order by score desc, clicks desc, image_id) as rank_in_query
  from scored) ranked
where rank_in_query <= 10000;

-- table: query_clicks
select query_id, sum(clicks) as clicks from spelled group by query_id;

-- table: retyped
select distinct b.query_id as variant, a.query_id as query_id, a.clicks as clicks
from (
  select query_a as one, query_b as other from steps where n >= 3
  union all select query_b, query_a from steps where n >= 3) directed
join query_clicks a on a.query_id = one join query_clicks b on b.query_id = other
join spelled x on x.query_id = one
join spelled y on y.query_id = other and x.image_id = y.image_id
where a.clicks > b.clicks or a.clicks = b.clicks and a.query_id < b.query_id;

-- view: candidates
select variant, retyped.query_id, clicks, b.query as variant_text, a.query as text
from retyped join texts a on a.query_id = retyped.query_id
join texts b on b.query_id = retyped.variant
order by clicks desc, retyped.query_id;

-- python: variants

-- view: merged
select image_id, coalesce(variants.query_id, spelled.query_id) as query_id,
  sum(clicks) as clicks, sum(examined) as examined
from spelled left join variants on variants.variant = spelled.query_id
group by image_id, coalesce(variants.query_id, spelled.query_id);

-- view: rescored
select image_id, query_id, clicks, examined, {score} as score from merged;

-- table: best
select * from (
  select *, row_number() over (
    partition by image_id order by score desc, clicks desc, query_id) as place,
    case when image_id < '3333' then 'test' when image_id < '4ccccccccccccccc' then 'validation'
      else 'train' end as split
  from rescored) ranked
where place <= 256;

-- result: pairs
select image_id, query_id, split, clicks, examined, score,
  score / sum(score) over (partition by image_id) as weight
from best;

-- table: stats
select query_id, sum(clicks) as clicks, count(*) as images,
  sum(case when split = 'train' then clicks else 0 end) as train_clicks,
  sum(case when split = 'train' then 1 else 0 end) as train_images
from best group by query_id;

-- result: query_days
select coalesce(variants.query_id, evidence.query_id) as query_id, day,
  sum(clicks) / 1024e0 as clicks, sum(impressions) as impressions
from evidence left join variants on variants.variant = evidence.query_id
where day >= 0 and coalesce(variants.query_id, evidence.query_id) in (select query_id from stats)
group by coalesce(variants.query_id, evidence.query_id), day;

-- view: votes
select query_id, language, row_number() over (
  partition by query_id order by n desc, language) as place
from (
  select coalesce(variants.query_id, humans.query_id) as query_id, language, count(*) as n
  from humans left join variants on variants.variant = humans.query_id
  where language is not null
  group by coalesce(variants.query_id, humans.query_id), language) counted;

-- view: days_seen
select coalesce(variants.query_id, evidence.query_id) as query_id,
  min(day) as first_day, max(day) as last_day
from evidence left join variants on variants.variant = evidence.query_id
where day >= 0 group by coalesce(variants.query_id, evidence.query_id);

-- result: queries
select stats.*, texts.query, coalesce(votes.language, 'und') as language, users,
  first_day, last_day
from stats join texts on stats.query_id = texts.query_id
join popular on stats.query_id = popular.query_id
left join votes on votes.query_id = stats.query_id and votes.place = 1
left join days_seen on days_seen.query_id = stats.query_id;

-- table: linked
select * from best where split = 'train' and place <= 32;

-- table: edges
select query_a, query_b, sum(co_clicks) as co_clicks, sum(reformulations) as reformulations from (
  select a.query_id as query_a, b.query_id as query_b, least(a.clicks, b.clicks) as co_clicks,
    0 as reformulations
  from linked a join linked b on a.image_id = b.image_id and a.query_id < b.query_id
  union all
  select least(a, b), greatest(a, b), 0, n
  from (
    select coalesce(v.query_id, query_a) as a, coalesce(w.query_id, query_b) as b, n
    from steps left join variants v on v.variant = query_a
    left join variants w on w.variant = query_b) renamed
  where a <> b and a in (select query_id from stats) and b in (select query_id from stats)) found
group by query_a, query_b;

-- view: named
select image_id, coalesce(variants.query_id, pooled.query_id) as query_id, clicks, examined
from pooled join images on pooled.key = images.key
left join variants on variants.variant = pooled.query_id;

-- table: refused
select image_id, query_id from named
where query_id in (select query_id from stats)
group by image_id, query_id having sum(clicks) = 0 and max(examined) >= 3;

-- table: skips
select least(a.query_id, b.query_id) as query_a, greatest(a.query_id, b.query_id) as query_b,
  count(*) as skips
from linked a join refused b on a.image_id = b.image_id
group by least(a.query_id, b.query_id), greatest(a.query_id, b.query_id) having count(*) >= 2;

-- view: degrees
select query_id, sum(n) as d from (
  select query_a as query_id, co_clicks + reformulations as n from edges
  union all select query_b, co_clicks + reformulations from edges) found
group by query_id;

-- result: query_pairs
select edges.query_a, edges.query_b, co_clicks, reformulations, skips,
  (co_clicks + reformulations) / (sqrt(a.d * b.d) + 10) as weight
from edges left join skips on skips.query_a = edges.query_a and skips.query_b = edges.query_b
join degrees a on a.query_id = edges.query_a join degrees b on b.query_id = edges.query_b
union all
select skips.query_a, skips.query_b, 0, 0, skips, 0
from skips left join edges on skips.query_a = edges.query_a and skips.query_b = edges.query_b
where edges.query_a is null;
