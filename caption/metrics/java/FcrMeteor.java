// METEOR 1.5 over a whole corpus at once: the scorer of meteor-1.5.jar, called from several threads.
//
// Compared with `java -jar meteor-1.5.jar - - -stdio -l en -norm` the values are the same and three
// things differ. The paraphrase table keeps only entries whose words and word pairs occur in the
// corpus (any other entry cannot match), so that it loads several times faster into far less
// memory. Every text is normalised once. Items are scored in parallel, each thread with its own
// copy of the scorer.
//
// stdin:  one line an item, UTF-8: hypothesis TAB reference [TAB reference ...]
// stdout: one METEOR score a line, then the corpus score; nothing else
// argv:   path of paraphrase-en.gz, number of threads
//
// Built by `python -m caption.metrics.java` (needs a JDK): javac --release 8 against meteor-1.5.jar.

import edu.cmu.meteor.aligner.Stemmer;
import edu.cmu.meteor.scorer.MeteorConfiguration;
import edu.cmu.meteor.scorer.MeteorScorer;
import edu.cmu.meteor.scorer.MeteorStats;
import edu.cmu.meteor.util.Constants;
import edu.cmu.meteor.util.Normalizer;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.reflect.Field;
import java.net.URL;
import java.net.URLConnection;
import java.net.URLStreamHandler;
import java.net.URLStreamHandlerFactory;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.StringTokenizer;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.zip.Deflater;
import java.util.zip.GZIPInputStream;
import java.util.zip.GZIPOutputStream;

public class FcrMeteor extends Thread {
    private static final ArrayList<String[]> items = new ArrayList<String[]>();
    private static final AtomicInteger next = new AtomicInteger();
    private static String[] stats;
    private static volatile Throwable failure;
    private final MeteorScorer scorer;

    private FcrMeteor(MeteorScorer scorer) {
        this.scorer = scorer;
    }

    public static void main(String[] args) throws Exception {
        Words words = new Words();
        readItems(words);
        final byte[] table = filterParaphrases(args[0], words);
        MeteorConfiguration configuration = new MeteorConfiguration();
        configuration.setLanguage("en");
        configuration.setNormalization(Constants.NO_NORMALIZE);  // readItems has done it
        configuration.setParaFileURL(inMemory(table));
        MeteorScorer scorer = new MeteorScorer(configuration);

        stats = new String[items.size()];
        FcrMeteor[] workers = new FcrMeteor[Math.max(1, Integer.parseInt(args[1]))];
        for (int i = 0; i < workers.length; i++) {
            workers[i] = new FcrMeteor(rememberStems(new MeteorScorer(scorer)));
            workers[i].start();
        }
        for (FcrMeteor worker : workers) worker.join();
        if (failure != null) throw new RuntimeException(failure);

        StringBuilder out = new StringBuilder();
        MeteorStats corpus = new MeteorStats();
        for (String line : stats) {
            MeteorStats item = new MeteorStats(line);
            scorer.computeMetrics(item);
            out.append(item.score).append('\n');
            corpus.addStats(item);
        }
        scorer.computeMetrics(corpus);
        out.append(corpus.score).append('\n');
        PrintStream stdout = new PrintStream(System.out, false, "UTF-8");
        stdout.print(out);
        stdout.flush();
    }

    @Override
    public void run() {
        try {
            for (int i = next.getAndIncrement(); i < items.size(); i = next.getAndIncrement()) {
                String[] fields = items.get(i);
                ArrayList<String> references = new ArrayList<String>(fields.length - 1);
                for (int j = 1; j < fields.length; j++) references.add(fields[j]);
                stats[i] = scorer.getMeteorStats(fields[0], references).toString();
            }
        } catch (Throwable error) {
            failure = error;
            next.set(items.size());
        }
    }

    // The stemmer runs by reflection on every word of every pair of texts, and the words repeat.
    private static MeteorScorer rememberStems(MeteorScorer scorer) throws Exception {
        Object aligner = field(scorer, "aligner").get(scorer);
        Field owned = field(aligner, "stemmer");
        final Stemmer stemmer = (Stemmer) owned.get(aligner);
        final Map<String, String> stems = new HashMap<String, String>();
        owned.set(aligner, new Stemmer() {
            @Override
            public String stem(String word) {
                String stem = stems.get(word);
                if (stem == null) {
                    stem = stemmer.stem(word);
                    stems.put(word, stem);
                }
                return stem;
            }
        });
        return scorer;
    }

    private static Field field(Object owner, String name) throws Exception {
        Field field = owner.getClass().getDeclaredField(name);
        field.setAccessible(true);
        return field;
    }

    private static void readItems(Words words) throws IOException {
        BufferedReader in =
            new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        Map<String, String> seen = new HashMap<String, String>();
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] fields = line.split("\t", -1);
            for (int i = 0; i < fields.length; i++) {
                String text = seen.get(fields[i]);
                if (text == null) {
                    text = Normalizer.normalizeLine(fields[i].trim(), Constants.LANG_EN, true);
                    text = text.toLowerCase();
                    seen.put(fields[i], text);
                    words.addAll(new StringTokenizer(text));
                }
                fields[i] = text;
            }
            items.add(fields);
        }
    }

    // The table is a sequence of three lines: probability, phrase, paraphrase.
    private static byte[] filterParaphrases(String path, Words words) throws IOException {
        ByteArrayOutputStream kept = new ByteArrayOutputStream(1 << 20);
        InputStream in = new GZIPInputStream(new FileInputStream(path), 1 << 16);
        OutputStream out = new GZIPOutputStream(kept, 1 << 16) {
            {
                def.setLevel(Deflater.NO_COMPRESSION);
            }
        };
        byte[] buffer = new byte[1 << 18];
        byte[] entry = new byte[1 << 16];
        int length = 0;
        int line = 0;
        boolean known = true;
        long word = Words.EMPTY;
        long previous = Words.EMPTY;
        for (int n = in.read(buffer); n >= 0; n = in.read(buffer)) {
            for (int i = 0; i < n; i++) {
                byte b = buffer[i];
                if (length == entry.length) entry = Arrays.copyOf(entry, 2 * length);
                entry[length++] = b;
                boolean blank = b == ' ' || b == '\n' || b == '\t' || b == '\r' || b == '\f';
                if (line > 0 && !blank) {
                    word = Words.step(word, b);
                } else if (line > 0 && word != Words.EMPTY) {
                    known = known && words.has(word) && words.has(Words.pair(previous, word));
                    previous = word;
                    word = Words.EMPTY;
                }
                if (b == '\n') {
                    previous = Words.EMPTY;
                    if (line == 2) {
                        if (known) out.write(entry, 0, length);
                        length = 0;
                        known = true;
                    }
                    line = (line + 1) % 3;
                }
            }
        }
        in.close();
        out.close();
        return kept.toByteArray();
    }

    // The configuration copies a URL through its text, so the protocol must be known to the JVM.
    private static URL inMemory(final byte[] content) throws IOException {
        final URLStreamHandler handler = new URLStreamHandler() {
            @Override
            protected URLConnection openConnection(URL url) {
                return new URLConnection(url) {
                    @Override
                    public void connect() {}

                    @Override
                    public InputStream getInputStream() {
                        return new ByteArrayInputStream(content);
                    }
                };
            }
        };
        URL.setURLStreamHandlerFactory(new URLStreamHandlerFactory() {
            @Override
            public URLStreamHandler createURLStreamHandler(String protocol) {
                return protocol.equals("memory") ? handler : null;
            }
        });
        return new URL("memory:paraphrases");
    }

    // The words and pairs of neighbouring words of the corpus as 64-bit hashes (FNV-1a over UTF-8):
    // where two share a hash a paraphrase too many is kept, which changes no score.
    private static final class Words {
        static final long EMPTY = 0xcbf29ce484222325L;
        private long[] slots = new long[1 << 16];
        private int size;

        static long step(long hash, byte b) {
            return (hash ^ (b & 0xff)) * 0x100000001b3L;
        }

        // The first word of a line has no neighbour before it: the pair is the word.
        static long pair(long previous, long word) {
            return previous == EMPTY ? word : (previous ^ Long.rotateLeft(word, 23)) * EMPTY;
        }

        void addAll(StringTokenizer tokens) {
            long previous = EMPTY;
            while (tokens.hasMoreTokens()) {
                long word = EMPTY;
                for (byte b : tokens.nextToken().getBytes(StandardCharsets.UTF_8)) {
                    word = step(word, b);
                }
                add(word);
                add(pair(previous, word));
                previous = word;
            }
        }

        boolean has(long hash) {
            return slots[slot(hash)] == hash;
        }

        private void add(long hash) {
            if (has(hash)) return;
            if (4 * ++size > slots.length) {
                long[] old = slots;
                slots = new long[2 * old.length];
                for (long each : old) if (each != 0) slots[slot(each)] = each;
            }
            slots[slot(hash)] = hash;
        }

        private int slot(long hash) {
            int i = (int) (hash ^ (hash >>> 29)) & (slots.length - 1);
            while (slots[i] != 0 && slots[i] != hash) i = (i + 1) & (slots.length - 1);
            return i;
        }
    }
}
