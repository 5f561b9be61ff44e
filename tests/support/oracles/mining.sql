-- Mining as SQL: the statements of mining_sql.py, which runs them step by step and puts
-- the tables log, texts, files and variants between them.

-- step: checks
create macro number_of(text) as try_cast(nullif(trim(text), '') as double);
create macro is_count(number) as number is not null and isfinite(number) and number <= 1e9;
create table numbered as
select id, query, query_id, fault, image,
  case when raw_clicks = '' then 1 else number_of(raw_clicks) end as clicks_given,
  raw_impressions <> '' as has_impressions, number_of(raw_impressions) as impressions_given,
  raw_position <> '' as has_position, number_of(raw_position) as position_given,
  raw_timestamp <> '' as has_time, number_of(raw_timestamp) as moment,
  epoch_ms(try_cast(nullif(trim(raw_timestamp), '') as timestamptz)) as iso,
  nullif(raw_session, '') as session, nullif(raw_user, '') as "user",
  nullif(trim(raw_language), '') as language
from log join texts using (raw_query);

create table valued as
select *, try(trim(decode(image))) as key,
  round_even(clicks_given * 1024, 0)::bigint as clicks,
  coalesce(impressions_given, greatest(1, ceil(round_even(clicks_given * 1024, 0) / 1024)))::bigint
    as impressions,
  case when has_position then least(position_given, 100)::int else 0 end as position,
  case when moment is null then iso
    when abs(moment) < 1e11 then floor(moment * 1000)
    when abs(moment) < 1e14 then floor(moment)
    else floor(moment / 1000) end::bigint as time
from numbered where is_count(clicks_given)
  and (not has_impressions or is_count(impressions_given) and impressions_given >= 0)
  and (not has_position or position_given between 1 and 1e6)
  and (not has_time or isfinite(coalesce(moment, iso::double)));

create table checked as
select n.id, v.* exclude (id, fault, has_time),
  case when v."user" is not null then 'user ' || v."user"
    when v.session is not null then 'session ' || v.session end as person,
  floor(v.time / 86400000.0)::bigint as day,
  case
    when n.fault is not null then n.fault
    when try(decode(n.image)) is null then 'bad_encoding'
    when trim(decode(n.image)) = '' then 'missing_image_key'
    when not is_count(n.clicks_given) then 'bad_clicks'
    when n.clicks_given < 0 then 'negative_clicks'
    when n.has_impressions
      and not (is_count(n.impressions_given) and n.impressions_given >= 0) then 'bad_impressions'
    when n.has_position and not coalesce(n.position_given between 1 and 1e6
      and n.position_given = floor(n.position_given), false) then 'bad_position'
    when n.has_time and not coalesce(isfinite(coalesce(n.moment, n.iso::double)), false)
      then 'bad_timestamp'
    when v.key in (from forgotten) or v."user" in (from forgotten_users) then 'forgotten'
    when getvariable('partition') <> ''
      and coalesce(epoch_ms(v.time)::date::varchar, '') <> getvariable('partition')
      then 'other_day'
    when v.clicks = 0 and v.impressions = 0 then 'no_click'
  end as reason
from numbered n left join valued v using (id);

-- step: days
create table events as
select distinct key, query_id, clicks, impressions, position, "user", session, time, language,
  person, day
from checked where reason is null;

create table robots as
select person, day from events where person is not null
group by person, day having count(*) > getvariable('max_person_events');

create table kept as
select * from events e where not exists (
  from robots r where r.person = e.person and r.day is not distinct from e.day);

create table evidence as
select person, day, query_id, key,
  least(sum(clicks), getvariable('max_person_clicks') * 1024)::bigint as clicks,
  least(sum(impressions), getvariable('max_person_clicks'))::bigint as impressions,
  coalesce(min(nullif(position, 0)), 0) as position
from kept where person is not null group by person, day, query_id, key
union all
select null, day, query_id, key, sum(clicks)::bigint, sum(impressions)::bigint, position
from kept where person is null group by day, query_id, key, position;

create table steps as
select least(query_id, later) as query_a, greatest(query_id, later) as query_b, count(*) as n
from (
  select query_id, time, lead(query_id) over w as later, lead(time) over w as later_time
  from kept where time is not null and ("user" is not null or session is not null)
  window w as (partition by "user", session order by time, query_id))
where query_id <> later and later_time - time <= getvariable('session_gap') * 1000
group by all;

create table votes as
select query_id, language, count(*) as n from kept where language is not null group by all;

-- step: merge
create table rare as
select query_id from kept group by query_id
having count(distinct "user") < getvariable('min_users')
  and exists (from kept where "user" is not null);
create table mode as
select case getvariable('evidence') when 'auto' then
    coalesce(sum(greatest(0, impressions - ceil(clicks / 1024))), 0) > 0
  else getvariable('evidence') = 'rate' end as is_rate
from evidence;

-- step: examination
-- Each position's rate relative to the best place that was clicked, never rising further down:
-- e_k = max(4096, min over places between of floor(65536 · c_k · i_r / (i_k · c_r))).
create table places as
select position, sum(clicks)::hugeint as c, sum(impressions)::hugeint as i
from evidence where position >= 1 group by position;
create table examination as
select p.position, greatest(4096, min(
    case when p.position <= r.position or p.i = 0 then 65536
      else least(65536, (65536 * p.c * r.i) // (p.i * r.c)) end
  ) over (order by p.position))::bigint as examined
from places p, (from places where c > 0 order by position limit 1) r;

-- step: join
create table joined as
select e.*, f.image_id, f.split, e.impressions * coalesce(x.examined, 65536) as examined
from evidence e
join (select distinct key, image_id, split from files) f using (key)
left join examination x using (position);
create table sums as
select image_id, split, query_id, sum(clicks) / 1024 as clicks,
  greatest(sum(clicks) / 1024, sum(examined) / 65536) as examined,
  count(distinct person) filter (clicks > 0) = 1
    and not bool_or(person is null and clicks > 0) as is_one_person
from joined group by all;
create macro score_of(clicks, examined) as
  case when (select is_rate from mode) then wilson(clicks, examined) else clicks end;
create table scored as
select *, score_of(clicks, examined) as score
from sums where clicks > 0 and clicks >= getvariable('min_pair_clicks')
  and (getvariable('one_person_pairs') or not is_one_person);
create table spelled as
from scored where query_id not in (from rare)
qualify row_number() over (
  partition by query_id order by score desc, clicks desc, image_id
) <= getvariable('max_images_per_query');
create table query_clicks as
select query_id, query, sum(clicks) as clicks
from spelled join (select distinct query_id, query from texts where fault is null)
  using (query_id)
group by all;

-- step: pairs
-- Pairs of variants are summed under the query at the end of their pointers.
create table ends as
select t.query_id, coalesce(v.query_id, t.query_id) as last_id
from (select distinct query_id from texts) t left join variants v on v.variant = t.query_id;
create table merged as
select image_id, split, last_id as query_id, sum(clicks) as clicks, sum(examined) as examined
from spelled join ends using (query_id) group by all;
create table pairs as
select *, row_number() over (
  partition by image_id order by score desc, clicks desc, query_id) as place
from (select *, score_of(clicks, examined) as score from merged)
qualify place <= getvariable('max_queries_per_image');

-- step: tables
create table pairs_table as
select image_id, query_id, split, clicks, examined, score,
  score / sum(score) over (partition by image_id) as weight
from pairs;

create table query_days_table as
select last_id as query_id, day, sum(clicks) / 1024 as clicks,
  sum(impressions)::bigint as impressions
from evidence join ends using (query_id)
where day is not null and last_id in (select query_id from pairs)
group by all;

create table languages as
select query_id, language from (
  select last_id as query_id, language, sum(n) as n
  from votes join ends using (query_id) group by all)
qualify row_number() over (partition by query_id order by n desc, language) = 1;
create table people as
select query_id, count(distinct "user") as users from kept group by query_id;
create table stats as
select query_id, sum(clicks) as clicks, count(*) as images,
  coalesce(sum(clicks) filter (split = 'train'), 0) as train_clicks,
  count(*) filter (split = 'train') as train_images
from pairs group by query_id;
create table queries_table as
select s.query_id, c.query, l.language, s.clicks, s.images, s.train_clicks, s.train_images,
  p.users,
  s.train_images > 0 and (select count(*) from stats t where t.train_images >= s.train_images)
    <= getvariable('head_queries') as head,
  (select min(day) from query_days_table d where d.query_id = s.query_id) as first_day,
  (select max(day) from query_days_table d where d.query_id = s.query_id) as last_day,
  coalesce((select list(o.query order by o.query)
    from variants v join query_clicks o on o.query_id = v.variant
    where v.query_id = s.query_id), []) as variants
from stats s join query_clicks c using (query_id) join people p using (query_id)
left join languages l using (query_id);

create table linked as
from pairs where split = 'train' and place <= getvariable('max_linked_queries');
create table edges as
select query_a, query_b, sum(co_clicks) as co_clicks, sum(reformulations)::double as reformulations
from (
  select a.query_id as query_a, b.query_id as query_b, least(a.clicks, b.clicks) as co_clicks,
    0 as reformulations
  from linked a join linked b on a.image_id = b.image_id and a.query_id < b.query_id
  union all
  select least(a, b), greatest(a, b), 0, n
  from (select x.last_id as a, y.last_id as b, n from steps
    join ends x on x.query_id = query_a join ends y on y.query_id = query_b)
  where a <> b and a in (select query_id from pairs) and b in (select query_id from pairs))
group by all;
-- People looked at an image at least three times for a query (or a spelling of it), and it is
-- none of the query's images.
create table refused as
select distinct image_id, last_id as query_id
from (
  from sums where clicks = 0 and examined >= 3
  qualify row_number() over (partition by image_id order by examined desc, query_id)
    <= getvariable('max_linked_queries'))
join ends using (query_id)
where last_id in (select query_id from pairs) and query_id not in (from rare);
delete from refused r where exists (
  from merged m where m.image_id = r.image_id and m.query_id = r.query_id);
create table skips as
select least(a.query_id, b.query_id) as query_a, greatest(a.query_id, b.query_id) as query_b,
  count(*) as skips
from linked a join refused b on a.image_id = b.image_id
group by all;
create table degrees as
select query_id, sum(n) as d from (
  select query_a as query_id, co_clicks + reformulations as n from edges
  union all select query_b, co_clicks + reformulations from edges)
group by query_id;
create table query_pairs_table as
select e.query_a, e.query_b, co_clicks, reformulations, coalesce(skips, 0) as skips,
  (co_clicks + reformulations) / (sqrt(a.d * b.d) + 10) as weight,
  case when co_clicks = 0 then 'reformulation' when reformulations = 0 then 'co_click'
    else 'both' end as evidence
from edges e left join skips using (query_a, query_b)
join degrees a on a.query_id = query_a join degrees b on b.query_id = query_b
union all
select query_a, query_b, 0, 0, skips, 0, 'skip'
from skips anti join edges using (query_a, query_b) where skips >= 2;

-- step: counts
create table of_robots as
select c.id from checked c
join robots r on r.person = c.person and r.day is not distinct from c.day where c.reason is null;
create table counts as
select reason, count(*) as n from checked where reason is not null group by reason
union all select 'robot', count(*) from of_robots
union all select 'delivered_twice', (select count(*) from checked where reason is null)
  - (select count(*) from of_robots) - (select count(*) from kept)
union all select 'unknown_image', count(*) from kept
  where key not in (select key from files)
union all select 'few_clicks', count(*) from sums
  where clicks > 0 and clicks < getvariable('min_pair_clicks')
union all select 'one_person', count(*) from sums
  where clicks > 0 and clicks >= getvariable('min_pair_clicks') and is_one_person
    and not getvariable('one_person_pairs')
union all select 'few_users', count(*) from scored where query_id in (from rare)
union all select 'query_cap', (select count(*) from scored where query_id not in (from rare))
  - (select count(*) from spelled)
union all select 'variant', (select count(*) from spelled) - (select count(*) from merged)
union all select 'image_cap',
  (select count(*) from merged) - (select count(*) from pairs);
