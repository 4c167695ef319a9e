CREATE TABLE jobs (
    id INTEGER NOT NULL,
    inbox TEXT NOT NULL,
    path TEXT NOT NULL,
    "drop" INTEGER NOT NULL,
    variant INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    source JSON NOT NULL,
    whereabouts TEXT DEFAULT 'inbox' NOT NULL,
    whereabouts_path TEXT,
    spec JSON,
    clip_name TEXT NOT NULL,
    rule TEXT,
    rules_digest TEXT,
    priority INTEGER DEFAULT '0' NOT NULL,
    state TEXT NOT NULL,
    due FLOAT DEFAULT '0' NOT NULL,
    attempt INTEGER DEFAULT '0' NOT NULL,
    failures INTEGER DEFAULT '0' NOT NULL,
    rung INTEGER DEFAULT '0' NOT NULL,
    fallbacks JSON DEFAULT '[]' NOT NULL,
    owner TEXT,
    lease FLOAT,
    cancel BOOLEAN DEFAULT false NOT NULL,
    progress JSON,
    error TEXT,
    result JSON,
    created FLOAT NOT NULL,
    started FLOAT,
    finished FLOAT,
    PRIMARY KEY (id),
    UNIQUE (inbox, path, "drop", variant)
);
INSERT INTO "jobs" VALUES(1,'inbox','cat.jpg',1,1,'aa','1','{"size": 1, "width": 64, "height": 64, "caption": ""}','inbox',NULL,'{"prompt": "zoom in", "negative_prompt": "", "preset": "draft", "width": 48, "height": 48, "framing": "crop", "frames": 8, "fps": 8, "motion_fps": 16, "steps": 10, "guidance": 1.0, "guidance_rescale": 1.0, "sampler": "ddim", "spacing": null, "seed": 3626764237, "quality": 12, "encoder": "x264", "fallback": "auto"}','cat','90-default','d',0,'done',0.0,1,0,0,'[]',NULL,NULL,false,'null',NULL,'{"clip": "/o/cat.mp4"}',1795619164.5,1795619164.5,1795619164.5);
INSERT INTO "jobs" VALUES(2,'inbox','dog.jpg',1,1,'aa','1','{"size": 1, "width": 64, "height": 64, "caption": ""}','inbox',NULL,'{"prompt": "zoom in", "negative_prompt": "", "preset": "high", "width": 96, "height": 96, "framing": "crop", "frames": 16, "fps": 8, "motion_fps": 16, "steps": 16, "guidance": 1.0, "guidance_rescale": 1.0, "sampler": "ddim", "spacing": null, "seed": 3626764237, "quality": 12, "encoder": "x264", "fallback": "auto"}','dog','90-default','d',0,'queued',0.0,0,0,0,'[]',NULL,NULL,false,NULL,NULL,NULL,1795619164.5,NULL,NULL);
INSERT INTO "jobs" VALUES(3,'inbox','bad.jpg',1,1,'aa','1','{"size": 1, "width": 64, "height": 64, "caption": ""}','inbox',NULL,NULL,'',NULL,NULL,0,'failed',0.0,0,0,0,'[]',NULL,NULL,false,NULL,'damaged',NULL,1795619164.5,NULL,1795619164.5);
CREATE TABLE events (
    id INTEGER NOT NULL,
    job BIGINT NOT NULL,
    at FLOAT NOT NULL,
    event TEXT NOT NULL,
    detail TEXT DEFAULT '' NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(job) REFERENCES jobs (id)
);
INSERT INTO "events" VALUES(1,1,1795619164.5,'queued','rule 90-default');
INSERT INTO "events" VALUES(2,2,1795619164.5,'queued','rule 90-default');
INSERT INTO "events" VALUES(3,3,1795619164.5,'rejected','damaged');
INSERT INTO "events" VALUES(4,1,1795619164.5,'running','attempt 1 on host');
INSERT INTO "events" VALUES(5,1,1795619164.5,'publishing','');
INSERT INTO "events" VALUES(6,1,1795619164.5,'done','/o/cat.mp4');
CREATE TABLE meta (
    "key" TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('schema_version','1');
CREATE INDEX jobs_content ON jobs (sha256);
CREATE INDEX jobs_queued ON jobs (priority DESC, id) WHERE state = 'queued';
CREATE INDEX jobs_state ON jobs (state, id);
CREATE INDEX ix_events_job ON events (job);
